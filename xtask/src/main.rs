//! `cargo xtask`: parses, dispatches, and turns the result into an exit code.

use std::process::ExitCode;

use clap::Parser;
use xtask::cli::Cli;
use xtask::env::Env;
use xtask::exit::{Exit, message};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Also `--help` and `--version`, which are no failures.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage.code() } else { 0 });
        }
    };
    let env = Env::read();
    if let Some(filter) = &env.log {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::from(Exit::Environment.code());
        }
    };
    let result = runtime.block_on(xtask::commands::run(cli.command, env));
    // A connection that nobody reads must not keep us.
    runtime.shutdown_background();
    xtask::cmd::reap();
    match result {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => {
            eprintln!("error: {}", message(&error));
            ExitCode::from(Exit::of(&error).code())
        }
    }
}
