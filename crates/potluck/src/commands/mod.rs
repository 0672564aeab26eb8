//! One file for each command, or for a few that are much alike.

pub(crate) mod agent;
pub(crate) mod assign;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod demo;
pub(crate) mod execute;
pub(crate) mod facts;
pub(crate) mod gc;
pub(crate) mod halt;
pub(crate) mod join_token;
pub(crate) mod key;
pub(crate) mod logs;
pub(crate) mod manual;
pub(crate) mod membership;
pub(crate) mod new;
pub(crate) mod operators;
pub(crate) mod plan;
pub(crate) mod publish;
pub(crate) mod server;
pub(crate) mod shim;
pub(crate) mod status;
pub(crate) mod trace;

use std::process::ExitCode;

use crate::arguments::{Command, Global};
use crate::exit::Failure;
use crate::output::Output;

/// Runs the command.
pub(crate) fn run(command: Command, global: &Global, output: Output) -> Result<ExitCode, Failure> {
    let exit = match command {
        Command::Demo(args) => demo::run(args, output),
        Command::Server(args) => server::run(args, global, output),
        Command::Agent(args) => return agent::run(&args, global, output),
        Command::JoinToken(args) => join_token::run(args, global, output),
        Command::New(args) => new::run(&args, output),
        Command::Publish(args) => publish::run(args, global, output),
        Command::Assign(args) => assign::run(args, global, output),
        Command::Unassign(args) => assign::unassign(args, global, output),
        Command::Halt(_) => halt::run(true, global, output),
        Command::Resume(_) => halt::run(false, global, output),
        Command::Status(_) => status::status(global, output),
        Command::Nodes(args) => status::nodes(&args, global, output),
        Command::Node(args) => status::node(&args, global, output),
        Command::Logs(args) => logs::run(&args, global, output),
        Command::Trace(args) => trace::run(&args, global, output),
        Command::Plan(args) => plan::run(&args, global, output),
        Command::Facts(args) => facts::run(&args, output),
        Command::Approve(args) => membership::approve(&args, global, output),
        Command::Revoke(args) => membership::revoke(args, global, output),
        Command::Operator(args) => operators::run(args, global, output),
        Command::Key(args) => key::run(args, global, output),
        Command::Audit(args) => audit::run(&args, global, output),
        Command::Gc(args) => gc::run(&args, global, output),
        Command::Backup(args) => backup::backup(&args, global, output),
        Command::Restore(args) => backup::restore(&args, global, output),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args, output),
        Command::Execute(args) => return Ok(execute::run(args)),
    };
    Ok(exit?.into())
}
