//! Executing a program of the container, and no other.
//!
//! Until execve(2) has succeeded, /proc/self/exe is d-enter's own file on the host. An image whose command is that link, or a
//! script with `#!/proc/self/exe`, would have the host's program run with the image's libraries (CVE-2019-5736), and a process
//! inside could then make it setuid, or overwrite it, where its owner is the user who is root inside. Links like that, which
//! the kernel follows past every root directory, are found only in /proc; so nothing is executed that lies behind one.
//!
//! A file that a process of another container on the same tree exchanges between this look and execve is not noticed. Even
//! then d-enter's own file cannot be written: it is busy (ETXTBSY) until the init and d-enter, which execute it, have ended.

use std::ffi::{CStr, CString};
use std::io;

use d_common::sys;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2, stat};
use rustix::io::{Errno, read};

/// As much of a script as the kernel looks at (BINPRM_BUF_SIZE).
const HEAD: usize = 256;
/// The kernel follows no more scripts that are interpreters of scripts.
const MAX_SCRIPTS: usize = 5;

/// execve(2). Returns only if it failed: also with `ELOOP` for what a link of /proc leads to.
pub fn execute(path: &CStr, argv: &[CString], envp: &[CString]) -> io::Error {
    if leads_outside(path) { Errno::LOOP.into() } else { sys::execve(path, argv, envp) }
}

/// Whether a link of /proc is on the way to `path`, or to the interpreter of that script.
fn leads_outside(path: &CStr) -> bool {
    let mut path = path.to_owned();
    for _ in 0..MAX_SCRIPTS {
        // NONBLOCK: a FIFO must not hold us up.
        let opened = open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY);
        let mut head = [0; HEAD];
        match opened.and_then(|file| read(&file, &mut head)) {
            Ok(length) => match interpreter(&head[..length]) {
                Some(next) => path = next,
                None => return false,
            },
            Err(Errno::LOOP) => return true,
            Err(Errno::ACCESS) => return open(&path, OFlags::PATH).err() == Some(Errno::LOOP),
            // A filter of the user's own may not know openat2.
            Err(Errno::NOSYS | Errno::PERM) => return is_own_program(&path),
            Err(_) => return false,
        }
    }
    false
}

fn open(path: &CStr, flags: OFlags) -> Result<std::os::fd::OwnedFd, Errno> {
    openat2(CWD, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

fn is_own_program(path: &CStr) -> bool {
    let identity = |path: &CStr| stat(path).map(|s| (s.st_dev, s.st_ino));
    matches!((identity(path), identity(c"/proc/self/exe")), (Ok(path), Ok(own)) if path == own)
}

/// What the `#!` line names (execve(2), "Interpreter scripts").
fn interpreter(head: &[u8]) -> Option<CString> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let name = line.trim_ascii_start().split(|byte| matches!(byte, b' ' | b'\t' | 0)).next()?;
    if name.is_empty() { None } else { CString::new(name).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_of_scripts() {
        let name = |text: &str| interpreter(text.as_bytes()).map(|name| name.into_string().unwrap());
        assert_eq!(name("#!/bin/sh\necho").as_deref(), Some("/bin/sh"));
        assert_eq!(name("#! \t/usr/bin/env -S x").as_deref(), Some("/usr/bin/env"));
        assert_eq!(name("#!/bin/sh\0\n").as_deref(), Some("/bin/sh"));
        for none in ["", "#", "#!", "#! \n/bin/sh", "\x7fELF", " #!/bin/sh"] {
            assert_eq!(name(none), None, "{none:?}");
        }
    }

    #[test]
    fn links_of_proc_are_recognised_however_they_are_reached() {
        let tmp = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = tmp.path().join(name);
            std::fs::write(&path, text).unwrap();
            CString::new(path.into_os_string().into_encoded_bytes()).unwrap()
        };
        let link = tmp.path().join("link");
        std::os::unix::fs::symlink("/proc/self/exe", &link).unwrap();
        let script = write("script", "#!/proc/self/exe\n");
        let by_link = write("by-link", &format!("#! {}\n", link.display()));
        let nested = write("nested", &format!("#!{}\n", tmp.path().join("by-link").display()));
        for path in [c"/proc/self/exe", c"/proc/thread-self/root/bin/sh", &script, &by_link, &nested] {
            assert!(leads_outside(path), "{path:?}");
        }
        let plain = write("plain", "#!/bin/sh\n");
        for path in [c"/bin/sh", c"/nonexistent", c"/proc/version", c"/", &plain] {
            assert!(!leads_outside(path), "{path:?}");
        }
        assert!(is_own_program(c"/proc/self/exe") && !is_own_program(c"/bin/sh"));
    }
}
