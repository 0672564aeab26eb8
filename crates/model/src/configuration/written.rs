//! A directory with a `configuration.toml`: nothing is done that is not in there.

use std::collections::{BTreeMap, BTreeSet};

use super::fault::{ConfigurationError, nearest};
use super::include::{self, Find, Parts};
use super::step::{Draft, StepReader};
use super::value::{Reader, Span, Value};
use super::{Tree, health, order, places, variables};
use crate::list::{Entry, Settings, Step};
use crate::{ConfigurationName, StepId};

pub(super) const TOP_KEYS: [&str; 5] = ["name", "include", "vars", "step", "health"];

/// What is written down.
#[derive(Default)]
pub(super) struct Written {
    pub(super) name: Option<ConfigurationName>,
    /// In the order in which they are done.
    pub(super) steps: Vec<Step>,
    pub(super) settings: Settings,
    /// Entries of what is included.
    pub(super) included: Vec<Entry>,
}

/// What the configuration may be called, beside what is written.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    /// Goes before all.
    pub(super) given: Option<&'a ConfigurationName>,
    /// For want of another.
    pub(super) directory: &'a str,
}

pub(super) fn read(
    text: &str,
    tree: Tree<'_>,
    names: Names<'_>,
    find: Find<'_>,
    errors: &mut Vec<ConfigurationError>,
) -> Written {
    let (mut reader, table) = Reader::parse(text, errors);
    let mut name = None;
    let mut settings = Settings::default();
    let (mut own_drafts, mut includes) = (Vec::new(), Vec::new());
    for (key, value) in &table {
        match key.get_ref().as_ref() {
            "name" => name = read_name(&mut reader, value),
            "include" => includes = include::read(&mut reader, value),
            "vars" => settings.vars = variables::read(&mut reader, value),
            "health" => settings.health = health::read(&mut reader, value),
            "step" => own_drafts = read_steps(&mut reader, value, &tree),
            other => {
                reader.unknown(&key.span(), other, "at the top", &TOP_KEYS);
            }
        }
    }
    let own_name = names
        .given
        .cloned()
        .or_else(|| name.clone())
        .or_else(|| names.directory.parse().ok());
    let parts = Parts::find(&mut reader, includes, find, own_name.as_ref(), tree);
    let mut drafts = parts.drafts();
    drafts.extend(own_drafts);
    if !table.contains_key("step") && !table.contains_key("include") {
        let message = "there is no [[step]]: with a configuration.toml, nothing is done that is not in it";
        reader.fault(&(0..0), "step", message.to_owned());
    }
    let settings = parts.settings(&mut reader, settings);
    let steps = fit(&mut reader, drafts, &parts);
    Written {
        name,
        steps,
        settings,
        included: parts.entries,
    }
}

fn read_name(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<ConfigurationName> {
    let text = reader.string("name", value, "name = \"web-edge\"")?;
    text.parse()
        .map_err(|fault: crate::NameError| reader.fault(&value.span(), "name", fault.to_string()))
        .ok()
}

fn read_steps(reader: &mut Reader<'_>, value: &Value<'_>, tree: &Tree<'_>) -> Vec<Draft> {
    let Some(items) = value.get_ref().as_array() else {
        let message = "each step begins with [[step]], in two pairs of brackets";
        reader.fault(&value.span(), "step", message.to_owned());
        return Vec::new();
    };
    let mut drafts = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match item.get_ref().as_table() {
            Some(table) => drafts.extend(StepReader::new(reader, table, item.span(), index + 1, tree).read()),
            None => reader.mistyped("step", item, "[[step]]"),
        }
    }
    drafts
}

/// Ids, needs, order and places: what can only be seen when all steps are there.
fn fit(reader: &mut Reader<'_>, drafts: Vec<Draft>, parts: &Parts) -> Vec<Step> {
    let entries = parts.tree();
    let tree = Tree {
        entries: &entries,
        text_of: &|_| None,
    };
    parts.check_directories(reader, &drafts);
    let mut by_id = BTreeMap::<&str, usize>::new();
    for (index, draft) in drafts.iter().enumerate() {
        if let Some(other) = by_id.get(draft.id.as_str()) {
            if draft.is_derived && draft.step.is_none() {
                // Its source is wrong, so its name may be as well; that has been said.
                continue;
            }
            let advice = if draft.is_derived {
                "; give it an id of its own"
            } else {
                ""
            };
            let whose = [parts.of(&drafts[*other]), parts.of(draft)];
            let whose: Vec<&str> = whose.iter().map(String::as_str).filter(|of| !of.is_empty()).collect();
            let whose = match whose[..] {
                [] => String::new(),
                [one] => format!(", one of them{one}"),
                _ => format!(", {}", whose.join(" and")),
            };
            let message = format!("two steps are called {:?}{}{advice}", draft.id.as_str(), whose);
            reader.fault(&draft.at, "id", message);
        } else {
            by_id.insert(draft.id.as_str(), index);
        }
    }
    let mut resolve = |key: &str, verb: &str, named: &dyn Fn(&Draft) -> &[(String, Span)]| {
        let mut found = vec![Vec::new(); drafts.len()];
        for (index, draft) in drafts.iter().enumerate() {
            for (other, span) in named(draft) {
                match by_id.get(other.as_str()) {
                    Some(at) if !found[index].contains(at) => found[index].push(*at),
                    Some(_) => {}
                    None => {
                        let id = draft.id.as_str();
                        let message = format!("step {id:?} {verb} {other:?}, and there is no such step");
                        let suggestion = nearest(other, by_id.keys().copied());
                        reader.fault_with(span, key, message, suggestion);
                    }
                }
            }
        }
        found
    };
    let needs: Vec<Vec<usize>> = resolve("needs", "needs", &|draft| &draft.needs);
    let notify: Vec<Vec<usize>> = resolve("notify", "notifies", &|draft| &draft.notify);
    let handlers: BTreeSet<usize> = notify.iter().flatten().copied().collect();
    for (index, draft) in drafts.iter().enumerate() {
        let handler = needs[index].iter().find(|need| handlers.contains(need));
        if let Some(handler) = handler.filter(|_| !handlers.contains(&index)) {
            let (id, handler) = (draft.id.as_str(), drafts[*handler].id.as_str());
            let span = draft.needs.iter().find(|(need, _)| need == handler);
            let message = format!("step {id:?} needs {handler:?}, which is done at the end, because it is notified");
            reader.fault(span.map_or(&draft.at, |(_, span)| span), "needs", message);
        }
    }
    for conflict in places::conflicts(drafts.iter().map(|draft| draft.step.as_ref()), &tree) {
        let (one, two) = (&drafts[conflict.steps.0], &drafts[conflict.steps.1]);
        let (one_id, two_id) = (one.id.as_str(), two.id.as_str());
        let message = if one_id == two_id {
            format!("both steps {two_id:?} place {:?}", conflict.path)
        } else {
            format!(
                "step {two_id:?}{} places {:?}, and so does step {one_id:?}{}",
                parts.of(two),
                conflict.path,
                parts.of(one)
            )
        };
        reader.fault(two.dest_at.as_ref().unwrap_or(&two.at), "dest", message);
    }
    // What is notified comes behind what notifies it.
    let mut behind = needs.clone();
    for (index, handlers) in notify.iter().enumerate() {
        for handler in handlers {
            behind[*handler].push(index);
        }
    }
    let order = match order::order(&behind) {
        Ok(order) => order,
        Err(circle) => {
            let ids: Vec<&str> = circle
                .iter()
                .chain(circle.first())
                .map(|item| drafts[*item].id.as_str())
                .collect();
            let first = &drafts[circle[0]];
            let next = &drafts[circle[1 % circle.len()]].id;
            let next_draft = &drafts[circle[1 % circle.len()]];
            let need = first.needs.iter().find(|(need, _)| need == next.as_str());
            let need = need.or_else(|| next_draft.notify.iter().find(|(id, _)| id == first.id.as_str()));
            let span = need.map_or(&first.at, |(_, span)| span);
            reader.fault(
                span,
                "needs",
                format!("steps need each other in a circle: {}", ids.join(" needs ")),
            );
            return Vec::new();
        }
    };
    let ids: Vec<StepId> = drafts.iter().map(|draft| draft.id.clone()).collect();
    let mut steps: Vec<Option<Step>> = drafts.into_iter().map(|draft| draft.step).collect();
    let (at_the_end, first): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|item| handlers.contains(item));
    first
        .into_iter()
        .chain(at_the_end)
        .filter_map(|item| {
            let mut step = steps[item].take()?;
            step.needs = needs[item].iter().map(|need| ids[*need].clone()).collect();
            step.notify = notify[item].iter().map(|handler| ids[*handler].clone()).collect();
            Some(step)
        })
        .collect()
}
