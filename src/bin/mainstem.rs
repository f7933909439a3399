//! `mainstem`: tools that work on any Kafka cluster and application.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
