//! Rules of the core, one a test.

mod crowds;
mod discovery;
mod harness;
mod hostile;
mod reach;
mod seats;
mod serving;
mod sources;
mod taking;
