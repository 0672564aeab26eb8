//! `potluck operator`: who may change the fleet, each with a key of their own.

use std::path::PathBuf;

use potluck_model::api::{JoinRequest, Labels, OperatorAnswer, OperatorInfo, OperatorRequest, TokenAnswer};
use potluck_model::join::{JOIN_VARIABLE, JoinString, fingerprint};
use potluck_net::api::Client;
use potluck_net::tls::{self, Identity};
use serde_json::Value;

use crate::arguments::{Global, ttl_seconds};
use crate::credential::{self, Credential};
use crate::exit::{Doing, Exit, Failure};
use crate::operator::{Operator, block_on};
use crate::output::{Column, Output, Table, Tone, clean, stamp};

/// Adds, lists and removes operators, each with a key of their own
///
/// An operator works from a machine of their own: the key is made there and never leaves it.
/// What each of them changes is in the audit log, see `potluck audit`.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck operator add alice                     at the server: prints a join string, for an hour
  potluck operator join potluck1.…               on alice's machine: from then on commands work there
  potluck operator list
  potluck operator remove alice"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Prints a join string for an operator; one of that name gets a new key
    Add(AddArgs),
    /// Makes this user an operator, with the join string from `operator add`
    Join(JoinArgs),
    /// Lists all operators that there are or were
    List,
    /// Takes an operator's rights away
    Remove(RemoveArgs),
}

#[derive(clap::Args, Debug)]
struct AddArgs {
    /// The operator's name: lower-case letters, digits and `-`
    #[arg(value_name = "NAME")]
    name: String,
    /// For how long the join string is valid: 30m, 12h, 2d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = ttl_seconds)]
    ttl: u64,
}

#[derive(clap::Args, Debug)]
struct JoinArgs {
    /// The join string; better in a file, or in POTLUCK_JOIN
    // Not parsed here: an error of the command line shows the value, and this one is a secret.
    #[arg(value_name = "STRING")]
    join: Option<String>,
    /// Read the join string from this file
    #[arg(long, value_name = "FILE", conflicts_with = "join")]
    join_file: Option<PathBuf>,
    /// Replace the credential that is there
    #[arg(long)]
    replace: bool,
}

#[derive(clap::Args, Debug)]
struct RemoveArgs {
    /// The operator's name
    #[arg(value_name = "NAME")]
    name: String,
}

pub(crate) fn run(args: Args, global: &Global, output: Output) -> Result<Exit, Failure> {
    match args.command {
        Command::Add(args) => add(args, global, output),
        Command::Join(args) => join(&args, output),
        Command::List => list(global, output),
        Command::Remove(args) => remove(&args.name, global, output),
    }
}

fn add(args: AddArgs, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let request = OperatorRequest {
        name: args.name,
        ttl_seconds: args.ttl,
    };
    let answer: TokenAnswer = block_on(async { Ok(operator.client.post("/v1/operators", &request).await?) })?;
    output.result(&answer, |_| answer.join.clone())?;
    if !output.json {
        output.note(&format!(
            "for `potluck operator join` on the machine of {}, once, until {}",
            request.name,
            stamp(answer.expires)
        ));
    }
    Ok(Exit::Ok)
}

fn join(args: &JoinArgs, output: Output) -> Result<Exit, Failure> {
    let path = credential::of_user()?;
    if path.exists() && !args.replace {
        return Err(Failure::new(format!(
            "becoming an operator: there is a credential already in {}",
            path.display()
        ))
        .advice("--replace puts the new one in its place."));
    }
    let join = join_string(args)?;
    let doing = || "becoming an operator".to_owned();
    let (key, csr) = tls::generate_key_and_csr();
    let request = JoinRequest {
        token: join.token.to_hex(),
        csr,
        facts: Labels::new(),
        labels: Labels::new(),
        replaces: None,
        operator: true,
        root: Some(join.root),
    };
    tls::install();
    let client = Client::for_joining(&join);
    let answer: OperatorAnswer = block_on(async { Ok(client.post("/v1/join", &request).await?) })?;
    tls::ca_from_pem(&answer.ca, join.ca).doing(doing)?;
    if answer.root.digest() != join.root {
        return Err(Failure::new(format!(
            "{}: the trusted root that the server gave is not the one that the join string names",
            doing()
        ))
        .advice("Have another join string made; if this happens again, the server was tampered with."));
    }
    let identity = Identity::from_pem(&answer.certificate, &key, &answer.ca).doing(doing)?;
    tls::client_config(Some(&identity), &identity.ca).doing(doing)?;
    let fingerprint = fingerprint(&tls::key_digest(&key).doing(doing)?);
    let found = Credential {
        servers: join.servers,
        ca: answer.ca,
        certificate: answer.certificate,
        key,
        releases: answer.root.releases,
    };
    found.write(&path)?;
    let document = serde_json::json!({
        "operator": answer.operator,
        "fingerprint": fingerprint,
        "credential": path,
    });
    output.result(&document, |_| {
        format!(
            "operator {} with key {fingerprint}; the credential is in {}",
            clean(&answer.operator),
            path.display()
        )
    })?;
    Ok(Exit::Ok)
}

fn join_string(args: &JoinArgs) -> Result<JoinString, Failure> {
    let (text, from) = match (&args.join, &args.join_file, std::env::var(JOIN_VARIABLE)) {
        (Some(text), ..) => (text.clone(), "the command line".to_owned()),
        (None, Some(file), _) => {
            let from = file.display().to_string();
            let text = std::fs::read_to_string(file).doing(|| format!("reading the join string from {from}"));
            (text.map_err(|failure| failure.exit(Exit::Data))?, from)
        }
        (None, None, Ok(text)) => (text, JOIN_VARIABLE.to_owned()),
        (None, None, Err(_)) => {
            return Err(Failure::new("becoming an operator: there is no join string")
                .exit(Exit::Usage)
                .advice(format!(
                    "Have one made with `potluck operator add`, and give it as an argument, with --join-file or in {JOIN_VARIABLE}."
                )));
        }
    };
    let parsed = text.parse().doing(|| format!("reading the join string from {from}"));
    parsed.map_err(|failure| failure.exit(Exit::Data))
}

fn list(global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let operators: Vec<OperatorInfo> = block_on(async { Ok(operator.client.get("/v1/operators").await?) })?;
    output.result(&operators, |style| {
        let mut table = Table::new([
            Column::left("NAME"),
            Column::left("KEY"),
            Column::left("ADDED"),
            Column::left("REMOVED"),
        ]);
        for operator in &operators {
            table.row([
                (Tone::Plain, operator.name.clone()),
                (Tone::Plain, operator.fingerprint.clone()),
                (Tone::Plain, stamp(operator.added)),
                (Tone::Dim, operator.removed.map_or_else(String::new, stamp)),
            ]);
        }
        table.render(style)
    })?;
    Ok(Exit::Ok)
}

fn remove(name: &str, global: &Global, output: Output) -> Result<Exit, Failure> {
    if !potluck_model::api::is_operator_name(name) {
        return Err(Failure::new(format!("{name:?} is no name of an operator")).exit(Exit::Usage));
    }
    let operator = Operator::find(global)?;
    let path = format!("/v1/operators/{name}");
    let _: Value = block_on(async { Ok(operator.client.delete(&path).await?) })?;
    output.result(&serde_json::json!({ "removed": name }), |_| {
        format!("operator {name} may do nothing any more")
    })?;
    Ok(Exit::Ok)
}
