//! What must hold of every run, whatever happens in it.

use crate::node::Behaviour;
use crate::world::World;

/// A rule.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// Every honest node that lives holds every chunk of every file, and says so.
    EveryFile,
    /// What nodes count as received is what they hold, and nothing more than waste.
    BytesAdd,
    /// The origin sent at most so many hundredths of the payload.
    OriginPercentAtMost(u64),
    /// The last node had everything within so many hundredths of payload / uplink rate after the last was switched on.
    TimePercentAtMost(u64),
}

impl World {
    /// Checks a rule; what is broken comes with the command that replays it.
    pub fn check(&self, check: Check) -> Result<(), String> {
        match check {
            Check::EveryFile => self.every_file(),
            Check::BytesAdd => self.bytes_add(),
            Check::OriginPercentAtMost(percent) => {
                let most = self.release.payload() * percent / 100;
                if self.origin_sent > most {
                    return Err(format!(
                        "the origin sent {} bytes of a payload of {}: more than {percent} %",
                        self.origin_sent,
                        self.release.payload()
                    ));
                }
                Ok(())
            }
            Check::TimePercentAtMost(percent) => {
                let ratio = self.time_ratio() * 100.0;
                if ratio > percent as f64 {
                    return Err(format!("the last node took {ratio:.1} % of payload / uplink rate"));
                }
                Ok(())
            }
        }
    }

    fn honest(&self) -> impl Iterator<Item = &crate::node::Node> {
        self.nodes
            .iter()
            .filter(|node| node.alive && node.behaviour == Behaviour::Honest)
    }

    fn every_file(&self) -> Result<(), String> {
        for node in self.honest() {
            for content in &self.release.contents {
                let chunks = self.release.chunks[&content.digest].len();
                let held = node
                    .store
                    .get(&content.digest)
                    .map_or(0, std::collections::BTreeSet::len);
                if held != chunks {
                    return Err(format!(
                        "node {} holds {held} of {chunks} chunks of {}",
                        node.id, content.digest
                    ));
                }
            }
            if node.complete.is_none() {
                return Err(format!("node {} holds everything and does not say so", node.id));
            }
        }
        Ok(())
    }

    fn bytes_add(&self) -> Result<(), String> {
        for node in self.honest() {
            let held: u64 = node
                .store
                .iter()
                .flat_map(|(digest, chunks)| {
                    let lengths = &self.release.chunks[digest];
                    chunks.iter().map(|chunk| u64::from(lengths[*chunk as usize]))
                })
                .sum();
            let received = node.origin_bytes + node.peer_bytes - node.wasted_bytes;
            if received > 0 && received != held {
                return Err(format!("node {} received {received} bytes and holds {held}", node.id));
            }
        }
        let from_peers: u64 = self.nodes.iter().map(|node| node.peer_bytes).sum();
        let served: u64 = self.nodes.iter().map(|node| node.served_bytes).sum();
        if from_peers > served {
            return Err(format!("peers sent {served} bytes and {from_peers} arrived"));
        }
        Ok(())
    }

    /// How long the last node took after it was switched on, over payload / uplink rate.
    pub fn time_ratio(&self) -> f64 {
        let ideal = self.release.payload() as f64 / self.links().origin_rate as f64;
        let worst = self
            .honest()
            .map(|node| {
                node.complete
                    .map_or(f64::INFINITY, |at| at.since(node.started).as_secs_f64())
            })
            .fold(0.0, f64::max);
        worst / ideal
    }
}
