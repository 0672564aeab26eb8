//! From events and the list to the trace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use potluck_model::list::{Entry, List};
use potluck_model::trace::{About, Cause, Event, Outcome, Recap, Source, What, Why};
use potluck_model::{ConfigurationName, Digest, NodeId, StepId, UnixMicros, VersionName};
use serde::Serialize;

/// The trace of one run: what one start of the agent did for one list. Times are the node's clock, in microseconds.
#[derive(Serialize, Debug, PartialEq)]
pub(crate) struct TraceReport {
    /// The node.
    pub(crate) node: NodeId,
    /// Digest of the list.
    pub(crate) list: Digest,
    /// The configuration it is a release of.
    pub(crate) configuration: ConfigurationName,
    /// Number of the release.
    pub(crate) release: u64,
    /// Its name for people.
    pub(crate) version: Option<VersionName>,
    /// Which start of the agent.
    pub(crate) boot: u64,
    /// All starts that did something for this list.
    pub(crate) boots: Vec<u64>,
    /// Each time that the node asked the server for its list and got this one.
    pub(crate) list_fetches: Vec<ListFetch>,
    /// The same for the list itself. Who was asked for the list was asked for all that is in it: a peer that knows it answers
    /// for its files at once.
    pub(crate) list_content: Sources,
    /// The files of the release, by path.
    pub(crate) files: Vec<FileTrace>,
    /// Sources that failed to deliver.
    pub(crate) failures: Vec<SourceFailure>,
    /// When everything that is needed was here.
    pub(crate) complete: Option<UnixMicros>,
    /// The steps that were executed, in order.
    pub(crate) steps: Vec<StepTrace>,
    /// Bytes of the files by where they came from; what stands at several paths counts once.
    pub(crate) totals: Totals,
    /// How the steps ended, once all have.
    pub(crate) recap: Option<Recap>,
    /// When all steps had ended.
    pub(crate) executed: Option<UnixMicros>,
    /// What an operator should know.
    pub(crate) troubles: Vec<Trouble>,
}

/// One request for the list.
#[derive(Serialize, Debug, PartialEq)]
pub(crate) struct ListFetch {
    /// When it was made.
    pub(crate) at: UnixMicros,
    /// What caused it.
    pub(crate) cause: Cause,
    /// When the answer was here.
    pub(crate) answered: UnixMicros,
    /// Sequence number of the assignment in the answer.
    pub(crate) sequence: u64,
}

/// Who was asked for a content, who answered, and where its bytes came from.
#[derive(Serialize, Debug, PartialEq, Default, Clone)]
pub(crate) struct Sources {
    /// Existence requests that named it.
    pub(crate) requests: Vec<Request>,
    /// Answers that named it.
    pub(crate) answers: Vec<Answer>,
    /// Where each range came from.
    pub(crate) ranges: Vec<Range>,
}

/// One file of the release.
#[derive(Serialize, Debug, PartialEq)]
pub(crate) struct FileTrace {
    /// Its path in the release.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Digest of its bytes.
    pub(crate) digest: Digest,
    #[serde(flatten)]
    pub(crate) sources: Sources,
    /// Where the bytes of its chunk list came from, if it has one.
    pub(crate) chunk_list: Vec<Range>,
}

/// An existence request.
#[expect(clippy::struct_field_names, reason = "the document's word")]
#[derive(Serialize, Debug, PartialEq, Clone)]
pub(crate) struct Request {
    /// Its number, unique in this boot.
    pub(crate) request: u64,
    /// When it went out.
    pub(crate) at: UnixMicros,
    /// Where to.
    pub(crate) to: SocketAddr,
    /// For multicast: over which interface.
    pub(crate) interface: Option<String>,
}

/// A peer's answer.
#[derive(Serialize, Debug, PartialEq, Clone)]
pub(crate) struct Answer {
    /// When it came.
    pub(crate) at: UnixMicros,
    /// Number of the request.
    pub(crate) request: u64,
    /// Who.
    pub(crate) peer: NodeId,
    /// From where.
    pub(crate) from: SocketAddr,
    /// What it said.
    pub(crate) state: AnswerState,
}

/// What a peer says of a content.
#[derive(Serialize, Debug, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AnswerState {
    /// It is there, whole.
    Held,
    /// Part of it is there, or it is being fetched.
    Fetching,
}

/// Bytes `[offset, offset + len)`, verified.
#[derive(Serialize, Debug, PartialEq, Clone)]
pub(crate) struct Range {
    /// First byte.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: u64,
    /// Where from.
    pub(crate) source: Source,
    /// Why from there.
    pub(crate) why: Why,
    /// When.
    pub(crate) at: UnixMicros,
}

/// A source failed to deliver.
#[derive(Serialize, Debug, PartialEq)]
pub(crate) struct SourceFailure {
    /// When.
    pub(crate) at: UnixMicros,
    /// Which.
    pub(crate) source: Source,
    /// How.
    pub(crate) fault: String,
}

/// A step.
#[derive(Serialize, Debug, PartialEq)]
pub(crate) struct StepTrace {
    /// Its id.
    pub(crate) id: StepId,
    /// How it ended, if it has.
    pub(crate) outcome: Option<Outcome>,
    /// Milliseconds it took.
    pub(crate) millis: Option<u64>,
    /// Exit code, of a command that ended by itself.
    pub(crate) exit: Option<i32>,
    /// What was changed, or why it failed, was skipped or blocked.
    pub(crate) message: String,
    /// When it started, if it did.
    pub(crate) started: Option<UnixMicros>,
    /// When it ended.
    pub(crate) ended: Option<UnixMicros>,
}

/// Bytes by where they came from.
#[expect(clippy::struct_field_names, reason = "the document's words")]
#[derive(Serialize, Debug, PartialEq, Eq, Default, Clone, Copy)]
pub(crate) struct Totals {
    /// They were on the node.
    pub(crate) held_bytes: u64,
    /// From peers.
    pub(crate) peer_bytes: u64,
    /// From the management server.
    pub(crate) origin_bytes: u64,
}

/// Files by where their bytes came from; what stands at several paths counts once.
#[derive(Serialize, Debug, PartialEq, Eq, Default, Clone, Copy)]
pub(crate) struct Shares {
    /// They were on the node.
    pub(crate) held: u64,
    /// All of them from peers.
    pub(crate) peers: u64,
    /// All of them from the management server.
    pub(crate) origin: u64,
    /// From peers and from the server.
    pub(crate) mixed: u64,
}

/// Something an operator should know.
#[derive(Serialize, Debug, PartialEq)]
pub(crate) struct Trouble {
    /// When.
    pub(crate) at: UnixMicros,
    /// What.
    pub(crate) message: String,
}

impl Totals {
    fn add(&mut self, range: &Range) {
        *match range.source {
            Source::Held => &mut self.held_bytes,
            Source::Peer(_) => &mut self.peer_bytes,
            Source::Origin => &mut self.origin_bytes,
        } += range.len;
    }
}

/// The list that the node worked on last.
pub(crate) fn last_list(events: &[Event]) -> Option<Digest> {
    let last = events
        .iter()
        .filter(|event| event.list.is_some())
        .max_by_key(|event| (event.boot, event.seq))?;
    last.list
}

impl TraceReport {
    /// Puts together what `node` did for `list` in its last boot, or in `boot`. None if it did nothing.
    pub(crate) fn new(
        node: NodeId,
        digest: Digest,
        list: &List,
        mut events: Vec<Event>,
        boot: Option<u64>,
    ) -> Option<Self> {
        events.sort_by_key(|event| (event.boot, event.seq));
        let boots: BTreeSet<u64> = events
            .iter()
            .filter(|event| event.list == Some(digest))
            .map(|event| event.boot)
            .collect();
        let boot = match boot {
            Some(boot) => *boots.get(&boot)?,
            None => *boots.last()?,
        };
        let mut builder = Builder::new(digest, list);
        let run = events.iter().filter(|event| event.boot == boot);
        let list_fetches = list_fetches(run.clone(), digest);
        for event in run.filter(|event| event.list == Some(digest)) {
            builder.event(event);
        }
        let totals = builder.totals();
        Some(Self {
            node,
            list: digest,
            configuration: list.configuration.clone(),
            release: list.release,
            version: list.version.clone(),
            boot,
            boots: boots.into_iter().collect(),
            list_fetches,
            files: builder.files(list),
            list_content: builder.list_content,
            failures: builder.failures,
            complete: builder.complete,
            steps: builder.steps,
            totals,
            recap: builder.executed.map(|(_, recap)| recap),
            executed: builder.executed.map(|(at, _)| at),
            troubles: builder.troubles,
        })
    }

    /// How many files came from where.
    pub(crate) fn shares(&self) -> Shares {
        let mut shares = Shares::default();
        let mut seen = BTreeSet::new();
        for file in self.files.iter().filter(|file| seen.insert(file.digest)) {
            let from = |wanted: fn(&Source) -> bool| file.sources.ranges.iter().any(|range| wanted(&range.source));
            let peers = from(|source| matches!(source, Source::Peer(_)));
            let origin = from(|source| *source == Source::Origin);
            let held = from(|source| *source == Source::Held);
            *match (peers, origin, held) {
                (true, true, _) => &mut shares.mixed,
                (true, false, _) => &mut shares.peers,
                (false, true, _) => &mut shares.origin,
                (false, false, true) => &mut shares.held,
                (false, false, false) => continue,
            } += 1;
        }
        shares
    }

    /// When this run began: the first thing that is known of it.
    pub(crate) fn began(&self) -> Option<UnixMicros> {
        let fetched = self.list_fetches.first().map(|fetch| fetch.at);
        let asked = self.list_content.requests.first().map(|request| request.at);
        let here = self
            .files
            .iter()
            .filter_map(|file| file.sources.ranges.first())
            .map(|range| range.at);
        fetched.or(asked).or(here.min())
    }
}

/// Requests for the list that this list was the answer to.
fn list_fetches<'a>(events: impl Iterator<Item = &'a Event>, digest: Digest) -> Vec<ListFetch> {
    let mut asked: Vec<(UnixMicros, Cause)> = Vec::new();
    let mut fetches = Vec::new();
    for event in events {
        match &event.what {
            What::ListRequested { cause } => asked.push((event.at, *cause)),
            What::Assigned { sequence, .. } => {
                let asked = std::mem::take(&mut asked);
                if event.list == Some(digest) {
                    fetches.extend(asked.into_iter().map(|(at, cause)| ListFetch {
                        at,
                        cause,
                        answered: event.at,
                        sequence: *sequence,
                    }));
                }
            }
            _ => {}
        }
    }
    fetches
}

struct Builder {
    list: Digest,
    /// Contents of the list, in the order that the runs of requests and answers count in.
    contents: Vec<Sources>,
    index: BTreeMap<Digest, usize>,
    chunk_lists: BTreeMap<Digest, Vec<Range>>,
    list_content: Sources,
    failures: Vec<SourceFailure>,
    complete: Option<UnixMicros>,
    steps: Vec<StepTrace>,
    executed: Option<(UnixMicros, Recap)>,
    troubles: Vec<Trouble>,
}

impl Builder {
    fn new(digest: Digest, list: &List) -> Self {
        let contents = list.contents();
        Self {
            list: digest,
            index: contents
                .iter()
                .enumerate()
                .map(|(index, content)| (content.digest, index))
                .collect(),
            chunk_lists: contents
                .iter()
                .filter_map(|content| Some((content.chunks?, Vec::new())))
                .collect(),
            contents: vec![Sources::default(); contents.len()],
            list_content: Sources::default(),
            failures: Vec::new(),
            complete: None,
            steps: Vec::new(),
            executed: None,
            troubles: Vec::new(),
        }
    }

    fn event(&mut self, event: &Event) {
        let at = event.at;
        match &event.what {
            What::ListRequested { .. } | What::Assigned { .. } | What::StepOutput { .. } | What::Ignored(_) => {}
            What::Asked {
                request,
                to,
                interface,
                about,
            } => {
                let request = Request {
                    request: *request,
                    at,
                    to: *to,
                    interface: interface.clone(),
                };
                self.about(about, |sources| sources.requests.push(request.clone()));
            }
            What::Answered {
                request,
                peer,
                from,
                held,
                fetching,
            } => {
                for (about, state) in [(held, AnswerState::Held), (fetching, AnswerState::Fetching)] {
                    let answer = Answer {
                        at,
                        request: *request,
                        peer: *peer,
                        from: *from,
                        state,
                    };
                    self.about(about, |sources| sources.answers.push(answer.clone()));
                }
            }
            What::Obtained {
                digest,
                offset,
                len,
                source,
                why,
                with,
            } => {
                let whole = with.iter().map(|(digest, len)| (digest, 0, *len));
                for (digest, offset, len) in [(digest, *offset, *len)].into_iter().chain(whole) {
                    let range = Range {
                        offset,
                        len,
                        source: *source,
                        why: *why,
                        at,
                    };
                    if let Some(&index) = self.index.get(digest) {
                        self.contents[index].ranges.push(range);
                    } else if let Some(ranges) = self.chunk_lists.get_mut(digest) {
                        ranges.push(range);
                    } else if *digest == self.list {
                        self.list_content.ranges.push(range);
                    }
                }
            }
            What::SourceFailed { source, fault } => self.failures.push(SourceFailure {
                at,
                source: *source,
                fault: fault.clone(),
            }),
            What::Complete { .. } => self.complete = self.complete.or(Some(at)),
            What::StepStarted { step } => {
                let step = self.step(step);
                *step = StepTrace {
                    started: Some(at),
                    ..StepTrace::unknown(step.id.clone())
                };
            }
            What::StepEnded {
                step,
                outcome,
                millis,
                exit,
                message,
            } => {
                let step = self.step(step);
                step.outcome = Some(*outcome);
                step.millis = Some(*millis);
                step.exit = *exit;
                step.message.clone_from(message);
                step.ended = Some(at);
            }
            What::Executed { recap } => self.executed = Some((at, *recap)),
            What::Trouble { message } => self.troubles.push(Trouble {
                at,
                message: message.clone(),
            }),
        }
    }

    /// Calls `note` for all that a request or an answer is about. Runs come from afar: those beyond the list are cut.
    fn about(&mut self, about: &About, note: impl Fn(&mut Sources)) {
        if about.list {
            note(&mut self.list_content);
        }
        let mut noted: BTreeSet<usize> = BTreeSet::new();
        for &(first, count) in &about.contents {
            let first = (first as usize).min(self.contents.len());
            let end = first.saturating_add(count as usize).min(self.contents.len());
            for index in first..end {
                if noted.insert(index) {
                    note(&mut self.contents[index]);
                }
            }
        }
    }

    fn step(&mut self, id: &StepId) -> &mut StepTrace {
        let at = self.steps.iter().position(|step| step.id == *id).unwrap_or_else(|| {
            self.steps.push(StepTrace::unknown(id.clone()));
            self.steps.len() - 1
        });
        &mut self.steps[at]
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for range in self.contents.iter().flat_map(|sources| &sources.ranges) {
            totals.add(range);
        }
        totals
    }

    fn files(&self, list: &List) -> Vec<FileTrace> {
        list.entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::File {
                    path,
                    size,
                    digest,
                    chunks,
                    ..
                } => Some(FileTrace {
                    path: path.clone(),
                    size: *size,
                    digest: *digest,
                    sources: self.contents[self.index[digest]].clone(),
                    chunk_list: chunks
                        .and_then(|chunks| self.chunk_lists.get(&chunks).cloned())
                        .unwrap_or_default(),
                }),
                _ => None,
            })
            .collect()
    }
}

impl StepTrace {
    fn unknown(id: StepId) -> Self {
        Self {
            id,
            outcome: None,
            millis: None,
            exit: None,
            message: String::new(),
            started: None,
            ended: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn each_file_has_its_requests_answers_and_ranges() {
        let report = sample::report();
        let big = report.files.iter().find(|file| file.path == "big.img").unwrap();
        assert_eq!(big.sources.requests.len(), 2);
        assert_eq!(big.sources.answers.len(), 1);
        assert_eq!(big.sources.answers[0].state, AnswerState::Fetching);
        let ranges: Vec<(u64, u64, Source)> = big
            .sources
            .ranges
            .iter()
            .map(|range| (range.offset, range.len, range.source))
            .collect();
        assert_eq!(
            ranges,
            [
                (0, 600_000, Source::Peer(sample::PEER)),
                (600_000, 448_576, Source::Origin)
            ]
        );
        assert_eq!(big.chunk_list.len(), 1);
        assert_eq!(report.list_content.ranges.len(), 1);
    }

    #[test]
    fn what_stands_at_two_paths_counts_once() {
        let report = sample::report();
        let same: Vec<&FileTrace> = report
            .files
            .iter()
            .filter(|file| ["site/index.html", "tune.sh"].contains(&file.path.as_str()))
            .collect();
        assert_eq!(same[0].sources, same[1].sources);
        assert_eq!(
            report.totals,
            Totals {
                held_bytes: 3,
                peer_bytes: 600_000,
                origin_bytes: 448_576
            }
        );
    }

    #[test]
    fn only_requests_that_this_list_answered_are_its_fetches() {
        let report = sample::report();
        let causes: Vec<Cause> = report.list_fetches.iter().map(|fetch| fetch.cause).collect();
        assert_eq!(causes, [Cause::Notified]);
        assert_eq!(report.list_fetches[0].sequence, 2);
    }

    #[test]
    fn runs_beyond_the_list_are_cut() {
        let mut events = sample::events();
        let last = events.last().unwrap().seq;
        events.push(sample::event(
            last + 1,
            What::Asked {
                request: 99,
                to: "10.0.0.9:7443".parse().unwrap(),
                interface: None,
                about: About {
                    list: false,
                    contents: vec![(1, u32::MAX), (u32::MAX, u32::MAX)],
                },
            },
        ));
        let list = sample::list();
        assert!(TraceReport::new(sample::NODE, list.digest(), &list, events, None).is_some());
    }

    #[test]
    fn each_boot_is_a_run_of_its_own() {
        let mut events = sample::events();
        let list = sample::list();
        let later = events.iter().filter(|event| event.list.is_some()).take(1).cloned();
        let later: Vec<Event> = later.map(|event| Event { boot: 8, ..event }).collect();
        events.extend(later);
        let run = |boot| TraceReport::new(sample::NODE, list.digest(), &list, events.clone(), boot);
        assert_eq!(run(None).unwrap().boot, 8);
        assert_eq!(run(None).unwrap().totals, Totals::default());
        assert_eq!(run(Some(7)).unwrap().boots, [7, 8]);
        assert_eq!(run(Some(7)).unwrap().totals, sample::report().totals);
        assert_eq!(run(Some(6)), None);
    }
}
