//! Who signs: taking over from the server, adding, removing, rotating.

use potluck_model::UnixSeconds;
use potluck_model::api::OnlineKeys;
use potluck_trust::{PublicKey, Role, Root, RootEditor, Signed};

use super::{Done, MoveArgs, PUBLISHERS, RotateArgs, SignersArgs, change_root, must_be_elsewhere};
use crate::exit::{Doing, Exit, Failure};
use crate::operator::Operator;
use crate::publisher::{Fleet, short};

pub(super) async fn take_over(operator: &Operator, args: &MoveArgs) -> Result<Done, Failure> {
    let mut ring = args.place.open()?;
    let fleet = Fleet::of(operator, &ring).await?;
    if !fleet.is_signed_by_server() {
        return Err(
            Failure::new("taking the keys away from the server: they are not there any more")
                .advice("`potluck key list` shows who signs; a signer can add others with `potluck key add`."),
        );
    }
    let there = ring.public().next().cloned();
    let own = match there {
        Some(key) => key,
        None => ring.make(args.sealed)?.public(),
    };
    let mut editor = RootEditor::after(&fleet.root, UnixSeconds::now());
    for role in PUBLISHERS {
        editor.clear(role).add(role, &own);
        for signer in &args.signer {
            editor.add(role, signer);
        }
        editor.threshold(role, args.threshold);
    }
    let answer = change_root(operator, (&fleet, &ring), editor).await?;
    let mut text = format!(
        "key {} in {} decides what nodes execute; the server has forgotten its keys",
        short(&own.id()),
        ring.dir().display()
    );
    if args.signer.is_empty() {
        text.push_str(
            "\nIf this key is lost, nobody can sign any more: make a spare one on another medium (`potluck key new --keys DIR`) \
             and add it (`potluck key add`).",
        );
    }
    text.push_str(
        "\nBackups of the server from before still hold its old keys. Nodes that have heard of this do not believe them; make a \
         new backup and destroy those.",
    );
    Ok((answer, text))
}

pub(super) async fn add(operator: &Operator, args: &SignersArgs) -> Result<Done, Failure> {
    let ring = args.place.open()?;
    let fleet = Fleet::of(operator, &ring).await?;
    must_be_elsewhere(&fleet)?;
    let mut editor = RootEditor::after(&fleet.root, UnixSeconds::now());
    let mut added = Vec::new();
    for text in &args.signers {
        let key: PublicKey = text
            .parse()
            .doing(|| format!("adding the signer {text:?}"))
            .map_err(|failure| failure.exit(Exit::Usage))?;
        for role in PUBLISHERS {
            editor.add(role, &key);
        }
        added.push(short(&key.id()));
    }
    set_threshold(&mut editor, args.threshold);
    let answer = change_root(operator, (&fleet, &ring), editor).await?;
    Ok((answer, format!("signers were added: {}", added.join(", "))))
}

pub(super) async fn remove(operator: &Operator, args: &SignersArgs) -> Result<Done, Failure> {
    let mut ring = args.place.open()?;
    let fleet = Fleet::of(operator, &ring).await?;
    must_be_elsewhere(&fleet)?;
    let mut editor = RootEditor::after(&fleet.root, UnixSeconds::now());
    let mut removed = Vec::new();
    for text in &args.signers {
        let id = signer(&fleet.root, text)?;
        for role in PUBLISHERS {
            editor.remove(role, &id);
        }
        removed.push(id);
    }
    set_threshold(&mut editor, args.threshold);
    let answer = change_root(operator, (&fleet, &ring), editor).await?;
    if answer.applied {
        for id in &removed {
            ring.forget(id)?;
        }
    }
    let removed: Vec<String> = removed.iter().map(|id| short(id)).collect();
    Ok((answer, format!("signers were removed: {}", removed.join(", "))))
}

pub(super) async fn rotate(operator: &Operator, args: &RotateArgs) -> Result<Done, Failure> {
    let mut ring = args.place.open()?;
    let fleet = Fleet::of(operator, &ring).await?;
    must_be_elsewhere(&fleet)?;
    let root = &fleet.root.document;
    let named = |id: &str| {
        PUBLISHERS
            .iter()
            .any(|role| root.role(*role).keyids.iter().any(|known| known == id))
    };
    let old: Vec<String> = ring.public().map(PublicKey::id).filter(|id| named(id)).collect();
    let [old] = old.as_slice() else {
        return Err(Failure::new(format!(
            "rotating: {} keys in {} are this fleet's signers, and exactly one is to be replaced",
            old.len(),
            ring.dir().display()
        ))
        .advice("Name the directory of the key with --keys DIR."));
    };
    let new = ring.make(args.sealed)?.public();
    let mut editor = RootEditor::after(&fleet.root, UnixSeconds::now());
    for role in PUBLISHERS {
        if root.role(role).keyids.contains(old) {
            editor.add(role, &new).remove(role, old);
        }
    }
    if args.online {
        let fresh: OnlineKeys = operator.client.post("/v1/trust/online", &()).await?;
        for (role, text) in [(Role::Snapshot, &fresh.snapshot), (Role::Timestamp, &fresh.timestamp)] {
            let key: PublicKey = text.parse().doing(|| "reading the server's fresh keys".to_owned())?;
            editor.clear(role).add(role, &key);
        }
    }
    let answer = change_root(operator, (&fleet, &ring), editor).await?;
    if answer.applied {
        ring.forget(old)?;
    }
    let online = if args.online {
        ", and the server signs with fresh keys"
    } else {
        ""
    };
    let text = format!("key {} signs in the place of {}{online}", short(&new.id()), short(old));
    Ok((answer, text))
}

fn set_threshold(editor: &mut RootEditor, threshold: Option<usize>) {
    if let Some(threshold) = threshold {
        for role in PUBLISHERS {
            editor.threshold(role, threshold);
        }
    }
}

/// The id of a signer, by the beginning of it or by its public half.
fn signer(root: &Signed<Root>, text: &str) -> Result<String, Failure> {
    let wanted = text
        .parse::<PublicKey>()
        .map_or_else(|_| text.to_owned(), |key| key.id());
    let mut found: Vec<&String> = PUBLISHERS
        .iter()
        .flat_map(|role| &root.document.role(*role).keyids)
        .filter(|id| id.starts_with(&wanted))
        .collect();
    found.sort();
    found.dedup();
    match found.as_slice() {
        [id] => Ok((*id).clone()),
        [] => Err(Failure::new(format!("no signer has an id that begins with {text:?}"))
            .exit(Exit::Usage)
            .advice("`potluck key list` shows all.")),
        several => Err(Failure::new(format!(
            "{} signers have an id that begins with {text:?}: give more of it",
            several.len()
        ))
        .exit(Exit::Usage)),
    }
}
