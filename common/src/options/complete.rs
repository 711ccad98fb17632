//! Completions: what a shell offers behind the tool's name, made of the table.
//!
//! Words that are listed, files and directories (values called FILE and DIR) are offered; of other values the shell knows nothing.

use std::ffi::OsStr;

use super::{Opt, Set, Tool, Wrong};

/// What an option's value may be.
enum Offer {
    Words(String),
    Files,
    Directories,
    Nothing,
}

impl<A> Tool<A> {
    /// The completions of a shell.
    ///
    /// # Errors
    /// Which shells there are.
    pub fn completions(&self, shell: &OsStr) -> Result<String, Wrong> {
        match shell.to_str() {
            Some("bash") => Ok(self.bash()),
            Some("fish") => Ok(self.fish()),
            Some("zsh") => Ok(self.zsh()),
            _ => Err("it is one of bash, fish, zsh".to_owned()),
        }
    }

    /// The options that are in the help.
    fn shown(&self) -> impl Iterator<Item = &'static Opt<A>> {
        self.all().filter(|option| !option.help.is_empty())
    }

    fn bash(&self) -> String {
        let mut cases = String::new();
        // What is behind the `=` of --option[=value] is never a word of its own.
        for option in self.shown().filter(|option| option.values().count() > 0 && !matches!(option.set, Set::Maybe(_)))
        {
            let offer = match option.offer() {
                Offer::Words(words) => format!("-W '{words}'"),
                Offer::Files => "-f".to_owned(),
                Offer::Directories => "-d".to_owned(),
                Offer::Nothing => "-W ''".to_owned(),
            };
            cases += &format!("    {}) offer=({offer}) ;;\n", option.names().join("|"));
        }
        let names: Vec<String> = self.shown().flat_map(Opt::names).collect();
        let (tool, function, names) = (self.name, self.name.replace('-', "_"), names.join(" "));
        format!(
            r#"_{function}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} offer=(-f)
    # --option=value is three words here.
    if [[ $prev == = ]]; then prev=${{COMP_WORDS[COMP_CWORD-2]}}; fi
    if [[ $cur == = ]]; then cur=; fi
    if [[ $cur == -* ]]; then offer=(-W '{names}'); fi
    case $prev in
{cases}    esac
    mapfile -t COMPREPLY < <(compgen "${{offer[@]}}" -- "$cur")
}}
complete -o filenames -F _{function} {tool}
"#
        )
    }

    fn fish(&self) -> String {
        let quoted = |text: &str| text.replace('\\', r"\\").replace('\'', r"\'");
        let line = |option: &Opt<A>| {
            let short = option.short().map(|letter| format!(" -s {letter}")).unwrap_or_default();
            let long = option.long().map(|name| format!(" -l {name}")).unwrap_or_default();
            let offer = match option.offer() {
                _ if option.values().count() == 0 || matches!(option.set, Set::Maybe(_)) => String::new(),
                Offer::Words(words) => format!(" -x -a '{words}'"),
                Offer::Files => " -r -F".to_owned(),
                Offer::Directories => " -x -a '(__fish_complete_directories)'".to_owned(),
                Offer::Nothing => " -r".to_owned(),
            };
            format!("complete -c {}{short}{long} -d '{}'{offer}\n", self.name, quoted(option.help))
        };
        self.shown().map(line).collect()
    }

    fn zsh(&self) -> String {
        let quoted = |text: &str| {
            let text = text.replace('\\', r"\\").replace(':', r"\:").replace('[', r"\[").replace(']', r"\]");
            text.replace('\'', r"'\''")
        };
        let mut specs = String::new();
        for option in self.shown() {
            let offer = match option.offer() {
                Offer::Words(words) => format!("({words})"),
                Offer::Files => "_files".to_owned(),
                Offer::Directories => "_files -/".to_owned(),
                Offer::Nothing => String::new(),
            };
            let values: String = option.values().map(|name| format!(":{}:{offer}", quoted(name))).collect();
            let (between, colon) = if matches!(option.set, Set::Maybe(_)) { ("-", ":") } else { ("", "") };
            for name in option.names() {
                let equals = match (values.is_empty(), name.starts_with("--")) {
                    (true, _) => "",
                    (_, true) => "=",
                    _ => "+",
                };
                specs += &format!("'*{name}{equals}{between}[{}]{colon}{values}' \\\n        ", quoted(option.help));
            }
        }
        let operand = self.operands.first().map_or_else(String::new, |(name, _)| quoted(name));
        format!(
            r#"#compdef {0}
_{0}() {{
    _arguments -s -S \
        {specs}'*:{operand}:_files'
}}
if [ "$funcstack[1]" = "_{0}" ]; then
    _{0} "$@"
else
    compdef _{0} {0}
fi
"#,
            self.name
        )
    }
}

impl<A> Opt<A> {
    /// Its name and its letter, with dashes.
    fn names(&self) -> Vec<String> {
        let letter = self.short().map(|letter| format!("-{letter}"));
        letter.into_iter().chain(self.long().map(|name| format!("--{name}"))).collect()
    }

    fn offer(&self) -> Offer {
        match (&self.set, self.values().next()) {
            (Set::Word(words, _), _) => {
                Offer::Words(words().into_iter().map(|(word, _)| word).collect::<Vec<_>>().join(" "))
            }
            (_, Some("FILE")) => Offer::Files,
            (_, Some("DIR")) => Offer::Directories,
            _ => Offer::Nothing,
        }
    }
}
