//! The command line: what there is, and how a failure looks.

mod checksum;
mod consume;
mod copy;
mod output;
mod produce;
mod reset;
mod state;
mod topics;
mod when;

use std::error::Error as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use mainstem::client::{ClientConfig, Cluster, Isolation};
use mainstem::{Error, ErrorKind, Result};

/// Tools for Kafka topics and Mainstem applications.
#[derive(Debug, Parser)]
#[command(name = "mainstem", version)]
struct Cli {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct ClusterArgs {
    /// Brokers to ask first, as host:port with commas between. Default: $MAINSTEM_KAFKA, then localhost:9092
    #[arg(long, short, alias = "bootstrap-server", global = true, value_name = "HOST:PORT,..")]
    bootstrap: Option<String>,
    /// A file of client properties, as Kafka's tools take it: bootstrap.servers, security.protocol, ssl.*, sasl.* and others.
    /// --bootstrap and $MAINSTEM_KAFKA go before its bootstrap.servers
    #[arg(long, alias = "config-file", global = true, value_name = "FILE")]
    command_config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make, list, describe, change and delete topics
    #[command(subcommand)]
    Topics(topics::Command),
    /// Write lines to a topic
    Produce(produce::Produce),
    /// Read a topic
    Consume(consume::Consume),
    /// Copy a topic: partition, order, keys, values, headers and timestamps stay
    Copy(copy::Copy),
    /// Bring an application back to the beginning of its input, or to another place
    Reset(reset::Reset),
    /// Look at, check and delete the local state of applications on this host
    #[command(subcommand)]
    State(state::Command),
}

/// Which records of transactions are seen.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum IsolationArg {
    /// All records
    ReadUncommitted,
    /// Records of committed transactions, and of none
    ReadCommitted,
}

impl From<IsolationArg> for Isolation {
    fn from(isolation: IsolationArg) -> Self {
        match isolation {
            IsolationArg::ReadUncommitted => Self::ReadUncommitted,
            IsolationArg::ReadCommitted => Self::ReadCommitted,
        }
    }
}

impl ClusterArgs {
    async fn connect(&self) -> Result<Cluster> {
        let named = self.bootstrap.clone().or_else(|| std::env::var("MAINSTEM_KAFKA").ok());
        connect(self.command_config.as_deref(), named.as_deref()).await
    }
}

/// Connects by a file of properties, or without one; a bootstrap address that is given goes before the file's.
async fn connect(file: Option<&Path>, bootstrap: Option<&str>) -> Result<Cluster> {
    let mut config = match file {
        None => ClientConfig::new(bootstrap.unwrap_or("localhost:9092")),
        Some(path) => {
            let wrong = || Error::new(ErrorKind::Config, format!("cannot use {}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|cause| wrong().because(cause))?;
            let text = bootstrap.map_or(text.clone(), |named| format!("{text}\nbootstrap.servers={named}\n"));
            ClientConfig::from_properties_str(&text).map_err(|cause| wrong().because(cause))?
        }
    };
    config.client_id = "mainstem-cli".to_owned();
    Cluster::connect(config).await
}

async fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Topics(command) => topics::run(command, &cli.cluster.connect().await?).await,
        Command::Produce(produce) => produce.run(&cli.cluster.connect().await?).await,
        Command::Consume(consume) => consume.run(&cli.cluster.connect().await?).await,
        Command::Copy(copy) => copy.run(&cli.cluster).await,
        Command::Reset(reset) => reset.run(&cli.cluster.connect().await?).await,
        Command::State(command) => state::run(command, &cli.cluster).await,
    }
}

/// Runs the command line of this process. Results go to stdout, errors with their causes to stderr; the exit code is 1
/// after a failure and 2 after a wrong argument.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| Error::new(ErrorKind::Io, "cannot start").because(cause));
    match runtime.and_then(|runtime| runtime.block_on(run(cli))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report("error", &error);
            ExitCode::FAILURE
        }
    }
}

fn report(what: &str, error: &Error) {
    let mut text = format!("{what}: {error}\n");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!("  because: {cause}\n"));
        source = cause.source();
    }
    // Nobody is left to tell when stderr is gone.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Whoever reads the output has enough, as `head` does.
fn is_broken_pipe(error: &Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    error.kind() == ErrorKind::Io && cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
