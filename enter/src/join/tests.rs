//! Tables: what a joining command is, by what was found and typed.

use super::*;

const ALL: Extent = Extent { inside: 0, outside: 100_000, count: 65_536 };

fn found() -> Found {
    let status = "Uid:\t100033 100033 100033 100033\nGid:\t100033 100033 100033 100033\nGroups:\t100033 100044 \nCapBnd: ff\n\
                  CapPrm: 3\nCapEff: 1\nUmask:\t0077\nNoNewPrivs:\t0\n";
    Found {
        state: State::parse(status, &[ALL], &[ALL]),
        environment: vec!["PATH=/bin".into(), "A=container".into(), "TERM=dumb".into()],
        workdir: "/srv".into(),
        limits: Vec::new(),
        uids: vec![ALL],
        gids: vec![ALL],
        groups_are_fixed: false,
        passwd: "root:x:0:0::/root:/bin/sh\nwww:x:33:33::/var/www:/bin/sh\n".into(),
        group: "root:x:0:\nwww:x:33:\n".into(),
    }
}

fn decided(line: &str, found: &Found) -> Result<Process> {
    let argv = format!("d-enter --join 1 {line}");
    let args = Args::from_command_line(argv.split_whitespace().map(Into::into)).unwrap();
    let environment = vec![("TERM".into(), "xterm-256color".into()), ("B".into(), "caller".into())];
    decide(&args, &Caller { environment, ..Caller::default() }, found)
}

#[test]
fn the_running_commands_equal() {
    let p = decided("", &found()).unwrap();
    assert_eq!((p.user.uid, p.user.gid, p.groups), (33, 33, Groups::Set(vec![33, 44])));
    assert_eq!((p.capabilities.bounding, p.capabilities.permitted, p.capabilities.effective), (0xff, 3, 1));
    assert_eq!((p.command, p.workdir, p.umask), (vec!["/bin/sh".into()], "/srv".into(), 0o077));
    assert_eq!(p.environment, ["PATH=/bin", "A=container", "TERM=dumb"]);
}

#[test]
fn options_apply() {
    let p = decided("-w /tmp -e A=1 -e B --umask 2 --tty always id -u", &found()).unwrap();
    assert_eq!(p.command, ["id", "-u"]);
    assert_eq!(p.environment, ["PATH=/bin", "A=1", "TERM=xterm-256color", "B=caller"]);
    assert_eq!((p.workdir, p.umask, p.pty), ("/tmp".into(), 2, [true; 3]));
    assert!(decided("-w tmp", &found()).is_err());
}

#[test]
fn another_user_has_no_more_than_could_be_had() {
    let root = decided("-u root", &found()).unwrap();
    assert_eq!((root.user.uid, root.capabilities.permitted, root.capabilities.bounding), (0, 0xff, 0xff));
    assert!(root.environment.contains(&"HOME=/root".into()));
    let user = decided("-u 7:8", &found()).unwrap();
    assert_eq!((user.user.gid, user.capabilities.permitted, user.groups), (8, 0, Groups::Set(vec![])));
    let mut fixed = found();
    fixed.state.no_new_privs = true;
    fixed.groups_are_fixed = true;
    let root = decided("-u 0", &fixed).unwrap();
    assert_eq!((root.capabilities.permitted, root.no_new_privs, root.groups), (3, true, Groups::Keep));
    assert!(decided("-u 70000", &found()).unwrap_err().to_string().contains("not mapped"));
}

#[test]
fn options_of_a_new_container_are_refused() {
    for option in ["--net=user", "-m 1G", "-v /a:/b", "--cap-add ALL", "--seccomp none", "--share pid", "--rm"] {
        let argv = format!("d-enter --join 1 {option}");
        assert!(Args::from_command_line(argv.split_whitespace().map(Into::into)).is_err(), "{option}");
    }
}
