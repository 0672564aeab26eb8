//! `potluck key`: whose signatures decide what nodes execute.

mod show;
mod signers;

use potluck_model::UnixSeconds;
use potluck_model::api::{TrustAnswer, TrustChange};
use potluck_trust::{Change, PublicKey, Role, Root, RootEditor, Signed, TargetsEditor};
use serde_json::{Value, json};

use crate::arguments::Global;
use crate::exit::{Doing, Exit, Failure};
use crate::operator::{Operator, block_on};
use crate::output::Output;
use crate::publisher::{Fleet, KeyPlace, Ring, applied, describe, short};

/// Shows and changes whose signatures decide what nodes execute
///
/// A new fleet's keys are on its server: whoever controls the server controls the fleet. `move` takes
/// them away: from then on `publish` signs on this machine, and the server cannot. A key of this
/// machine is made here and never leaves it; with --keys it can be on a stick.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck key new --keys /media/stick --sealed    a spare key: prints its public half
  potluck key move --signer ed25519:9f3c…         a key here, and the spare one; either may sign
  potluck key list
  potluck key add ed25519:77ab… --threshold 2     another signer, and it takes two from now on
  potluck key sign                                adds this machine's signature to what waits
  potluck key remove 0b52…                        a key was lost
  potluck key rotate --online                     fresh keys, also for what the server signs by itself"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Shows who signs, how many it takes, what waits for signatures, and what is narrowed
    List(PlaceArgs),
    /// Makes a key on this machine and prints its public half, for `key move --signer` or `key add`
    New(NewArgs),
    /// Takes root and targets away from the server: this machine's key signs from now on
    Move(MoveArgs),
    /// Adds signers
    Add(SignersArgs),
    /// Removes signers, such as one whose key was lost
    Remove(SignersArgs),
    /// Puts a new key in the place of this machine's
    Rotate(RotateArgs),
    /// Adds this machine's signature to the change that waits for it
    Sign(PlaceArgs),
    /// Drops the change that waits for signatures
    Drop,
    /// Signs what is in force anew: before it expires, or after the server was restored from a backup
    Renew(PlaceArgs),
}

#[derive(clap::Args, Debug)]
struct PlaceArgs {
    #[command(flatten)]
    place: KeyPlace,
}

#[derive(clap::Args, Debug)]
struct NewArgs {
    #[command(flatten)]
    place: KeyPlace,
    /// Seal the key with a passphrase
    #[arg(long)]
    sealed: bool,
}

#[derive(clap::Args, Debug)]
struct MoveArgs {
    #[command(flatten)]
    place: KeyPlace,
    /// Seal the key with a passphrase
    #[arg(long)]
    sealed: bool,
    /// The public half of another signer's key, such as of a spare one; can be repeated
    #[arg(long, value_name = "KEY")]
    signer: Vec<PublicKey>,
    /// How many signatures it takes
    #[arg(long, value_name = "N", default_value_t = 1)]
    threshold: usize,
}

#[derive(clap::Args, Debug)]
struct SignersArgs {
    #[command(flatten)]
    place: KeyPlace,
    /// Public halves of keys; to remove one, the beginning of its id will do
    #[arg(value_name = "KEY", required = true)]
    signers: Vec<String>,
    /// How many signatures it takes from now on [default: as many as so far]
    #[arg(long, value_name = "N")]
    threshold: Option<usize>,
}

#[derive(clap::Args, Debug)]
struct RotateArgs {
    #[command(flatten)]
    place: KeyPlace,
    /// Seal the new key with a passphrase
    #[arg(long)]
    sealed: bool,
    /// Fresh keys also for snapshot and timestamp, which the server signs: somebody has seen its disk
    #[arg(long)]
    online: bool,
}

/// The roles that publishers sign for.
const PUBLISHERS: [Role; 2] = [Role::Root, Role::Targets];

pub(crate) fn run(args: Args, global: &Global, output: Output) -> Result<Exit, Failure> {
    match args.command {
        Command::New(args) => return new(&args, output),
        Command::List(args) => {
            let operator = Operator::find(global)?;
            let ring = args.place.open()?;
            let fleet = block_on(Fleet::even_if_behind(&operator, &ring))?;
            show::list(&fleet, &ring, output)?;
            return Ok(Exit::Ok);
        }
        Command::Drop => {
            let operator = Operator::find(global)?;
            let _: Value = block_on(async { Ok(operator.client.delete("/v1/trust").await?) })?;
            output.result(&json!({ "dropped": true }), |_| {
                "the change that waited for signatures is dropped".into()
            })?;
            return Ok(Exit::Ok);
        }
        _ => {}
    }
    let operator = Operator::find(global)?;
    let (answer, done) = block_on(async {
        match args.command {
            Command::Move(args) => signers::take_over(&operator, &args).await,
            Command::Add(args) => signers::add(&operator, &args).await,
            Command::Remove(args) => signers::remove(&operator, &args).await,
            Command::Rotate(args) => signers::rotate(&operator, &args).await,
            Command::Renew(args) => renew(&operator, &args.place).await,
            Command::Sign(args) => sign(&operator, &args.place, output).await,
            Command::List(_) | Command::New(_) | Command::Drop => unreachable!("dealt with above"),
        }
    })?;
    output.result(&answer, |_| applied(&answer, &done))?;
    Ok(Exit::Ok)
}

fn new(args: &NewArgs, output: Output) -> Result<Exit, Failure> {
    let mut ring = args.place.open()?;
    let key = ring.make(args.sealed)?.public();
    let text = key.to_text().unwrap_or_default();
    let document = json!({ "id": key.id(), "public": text, "directory": ring.dir() });
    output.result(&document, |_| text.clone())?;
    if !output.json {
        output.note(&format!(
            "key {} is in {}; it signs nothing until a signer of the fleet adds it with `potluck key add`",
            short(&key.id()),
            ring.dir().display()
        ));
    }
    Ok(Exit::Ok)
}

/// What came of a change, and what to say if it is in force.
type Done = (TrustAnswer, String);

async fn renew(operator: &Operator, place: &KeyPlace) -> Result<Done, Failure> {
    let ring = place.open()?;
    let fleet = Fleet::even_if_behind(operator, &ring).await?;
    must_be_elsewhere(&fleet)?;
    let now = UnixSeconds::now();
    let root = match &fleet.lost {
        Some(lost) => Some(lost.clone()),
        None => Some(finish_root(RootEditor::after(&fleet.root, now))?),
    };
    let mut change = Change {
        root,
        targets: Some(finish_targets(fleet.next_targets(now)?)?),
    };
    fleet.sign(&ring, &mut change)?;
    let answer = fleet.submit(operator, &ring, &change, &[]).await?;
    Ok((answer, "root and targets are signed anew".to_owned()))
}

async fn sign(operator: &Operator, place: &KeyPlace, output: Output) -> Result<Done, Failure> {
    let ring = place.open()?;
    let fleet = Fleet::of(operator, &ring).await?;
    let Some(waiting) = &fleet.info.waiting else {
        return Err(Failure::new("signing: no change waits for signatures"));
    };
    let mut change = parse(waiting).map_err(|failure| failure.exit(Exit::Data))?;
    change
        .lacks(&fleet.root, fleet.targets.as_ref())
        .doing(|| "checking the change that waits".to_owned())?;
    for line in describe(&fleet, &change)? {
        output.note(&line);
    }
    fleet.sign(&ring, &mut change)?;
    let answer = fleet.submit(operator, &ring, &change, &waiting.releases).await?;
    Ok((answer, "enough have signed: it is in force".to_owned()))
}

fn parse(change: &TrustChange) -> Result<Change, Failure> {
    let doing = || "reading the change that waits".to_owned();
    let root = change.root.as_ref().map(|text| Signed::from_bytes(text.as_bytes()));
    let targets = change.targets.as_ref().map(|text| Signed::from_bytes(text.as_bytes()));
    Ok(Change {
        root: root.transpose().doing(doing)?,
        targets: targets.transpose().doing(doing)?,
    })
}

fn must_be_elsewhere(fleet: &Fleet) -> Result<(), Failure> {
    if fleet.lost.is_none() && fleet.is_signed_by_server() {
        return Err(
            Failure::new("the keys that decide what nodes execute are on the server, which signs by itself")
                .advice("`potluck key move` takes them away."),
        );
    }
    Ok(())
}

fn finish_root(editor: RootEditor) -> Result<Signed<Root>, Failure> {
    let finished = editor.finish().doing(|| "changing the signers".to_owned());
    finished.map_err(|failure| failure.exit(Exit::Usage))
}

fn finish_targets(editor: TargetsEditor) -> Result<Signed<potluck_trust::Targets>, Failure> {
    editor.finish().doing(|| "signing releases".to_owned())
}

/// Signs a change of the root, with the targets anew as it demands, and gives it to the server.
async fn change_root(
    operator: &Operator,
    (fleet, ring): (&Fleet, &Ring),
    editor: RootEditor,
) -> Result<TrustAnswer, Failure> {
    let mut change = Change {
        root: Some(finish_root(editor)?),
        targets: Some(finish_targets(fleet.next_targets(UnixSeconds::now())?)?),
    };
    fleet.sign(ring, &mut change)?;
    Ok(fleet.submit(operator, ring, &change, &[]).await?)
}
