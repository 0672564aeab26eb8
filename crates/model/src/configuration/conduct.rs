//! How a step is done: what every kind of step may say of failures and limits.

use toml::de::DeTable;

use super::fault::nearest;
use super::keys::{ON_FAILURE, ON_INTERRUPT};
use super::step::StepReader;
use super::value::Value;
use crate::list::{Limits, OnFailure, OnInterrupt, RETRIES_MAX, RETRY_DELAY_SECONDS_MAX, Retry};
use crate::units::{parse_duration, parse_size};

const RETRY: &str = "retry = { times = 3, delay = \"10s\" }";
const LIMITS: &str = "limits = { memory = \"512MiB\", cpu = \"50%\" }";

impl<'t> StepReader<'_, '_, 't> {
    pub(super) fn on_failure(&mut self) -> OnFailure {
        match self.one_of("on_failure", &ON_FAILURE).as_deref() {
            Some("continue") => OnFailure::Continue,
            Some("undo") => OnFailure::Undo,
            _ => OnFailure::Stop,
        }
    }

    pub(super) fn on_interrupt(&mut self) -> OnInterrupt {
        match self.one_of("on_interrupt", &ON_INTERRUPT).as_deref() {
            Some("fail") => OnInterrupt::Fail,
            _ => OnInterrupt::Again,
        }
    }

    pub(super) fn retry(&mut self) -> Option<Retry> {
        let table = self.inner("retry", RETRY, &["times", "delay"])?;
        let mut retry = Retry {
            times: 3,
            delay_seconds: 10,
        };
        if let Some(value) = table.get("times") {
            let times = self.reader.number("times", value, u64::from(RETRIES_MAX))?;
            if times == 0 {
                let message = "a step that is tried again is so at least once; leave retry out".to_owned();
                self.reader.fault(&value.span(), "times", message);
            }
            retry.times = times as u32;
        }
        if let Some(value) = table.get("delay") {
            let text = self.reader.string("delay", value, RETRY)?;
            match parse_duration(&text) {
                Ok(delay) if delay.as_secs() <= RETRY_DELAY_SECONDS_MAX => {
                    retry.delay_seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
                }
                Ok(_) => {
                    let message = "a step is tried again after an hour at the latest".to_owned();
                    self.reader.fault(&value.span(), "delay", message);
                }
                Err(fault) => self.reader.fault(&value.span(), "delay", fault.to_string()),
            }
        }
        Some(retry)
    }

    pub(super) fn limits(&mut self) -> Option<Limits> {
        let table = self.inner("limits", LIMITS, &["memory", "cpu"])?;
        let mut limits = Limits::default();
        if let Some(value) = table.get("memory") {
            let text = self.reader.string("memory", value, LIMITS)?;
            match parse_size(&text) {
                Ok(0) => self
                    .reader
                    .fault(&value.span(), "memory", "a step needs some memory".into()),
                Ok(bytes) => limits.memory_bytes = Some(bytes),
                Err(fault) => self.reader.fault(&value.span(), "memory", fault.to_string()),
            }
        }
        if let Some(value) = table.get("cpu") {
            let text = self.reader.string("cpu", value, LIMITS)?;
            let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
            match percent {
                Some(percent @ 1..=100_000_u32) => limits.cpu_percent = Some(percent),
                _ => {
                    let message = format!("{text:?} is no share of a processor: write \"50%\", or \"200%\" for two");
                    self.reader.fault(&value.span(), "cpu", message);
                }
            }
        }
        Some(limits)
    }

    /// A table in a step, with no other keys than `known`.
    fn inner(&mut self, key: &str, example: &str, known: &[&str]) -> Option<&'t DeTable<'t>> {
        let value: &'t Value<'t> = self.table.get(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.reader.mistyped(key, value, example);
            return None;
        };
        for (name, _) in table {
            if !known.contains(&name.get_ref().as_ref()) {
                let place = format!("in {key}");
                self.reader.unknown(&name.span(), name.get_ref(), &place, known);
            }
        }
        Some(table)
    }

    fn one_of(&mut self, key: &str, known: &[&'static str]) -> Option<String> {
        let value = self.table.get(key)?;
        let text = self.reader.string(key, value, &format!("{key} = {:?}", known[0]))?;
        if known.contains(&text.as_str()) {
            return Some(text);
        }
        let message = format!("{key} cannot be {text:?}, but {}", known.join(" or "));
        let suggestion = nearest(&text, known.iter().copied());
        self.reader.fault_with(&value.span(), key, message, suggestion);
        None
    }
}
