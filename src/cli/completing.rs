//! `batchline completions`, and the answers to what its scripts ask while a command is typed.
//!
//! In: the words so far, from a script that sets [`VARIABLE`]. Out: what may come next.
//!
//! Invariants: the script holds no grammar: the program that is installed answers, so the two cannot differ.

use clap::CommandFactory;
use clap_complete::env::{Bash, CompleteEnv, EnvCompleter, Fish, Shells, Zsh};

use super::args::{Arguments, CompletionsArguments, Shell};
use super::exit::{Exit, Failure};
use super::terminal::{StdoutError, print_text};

/// The environment variable by which the script asks, and names its shell.
const VARIABLE: &str = "BATCHLINE_COMPLETE";

/// The program, as it is called by name.
const PROGRAM: &str = env!("CARGO_BIN_NAME");

/// zsh loads the script from its `fpath` when it is first needed, by calling it: then it has to answer at once.
const ZSH_FIRST_USE: &str = r#"
if [[ "$funcstack[1]" == _batchline ]]; then
    _clap_dynamic_completer_batchline "$@"
fi
"#;

/// Answers a script, if one asks: then the program is done.
pub(crate) fn answer() -> Option<Exit> {
    let directory = std::env::current_dir().ok();
    let shells = Shells(&[&Bash, &Fish, &Zsh]);
    let asked = CompleteEnv::with_factory(Arguments::command).var(VARIABLE).shells(shells);
    match asked.try_complete(std::env::args_os(), directory.as_deref()) {
        Ok(false) => None,
        Ok(true) => Some(Exit::Success),
        Err(error) => {
            // A closed pipe exits silently here, too.
            let _ = error.print();
            Some(Exit::Usage)
        }
    }
}

pub(crate) fn completions(arguments: &CompletionsArguments) -> Result<Exit, Failure> {
    let shell: &dyn EnvCompleter = match arguments.shell {
        Shell::Bash => &Bash,
        Shell::Fish => &Fish,
        Shell::Zsh => &Zsh,
    };
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut script).map_err(StdoutError)?;
    if let Shell::Zsh = arguments.shell {
        script.extend_from_slice(ZSH_FIRST_USE.as_bytes());
    }
    print_text(&script)?;
    Ok(Exit::Success)
}
