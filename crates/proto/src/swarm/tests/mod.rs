//! Rules of the core, one a test.

mod crowds;
mod discovery;
mod harness;
mod hostile;
mod pace;
mod reach;
mod seats;
mod serving;
mod shares;
mod sources;
mod taking;
