//! The program: a thin layer over the library that alone knows the command line, the environment and the terminal.

mod cli;

/// Threads come and go with every shard. What they free must not stay theirs: the promise is constant memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
