//! The program: a thin layer over the library that alone knows the command line, the environment and the terminal.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
