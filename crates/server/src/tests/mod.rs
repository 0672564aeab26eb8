//! The server over real HTTPS on loopback.

mod access;
mod assigning;
mod content;
mod fixtures;
mod joining;
mod limits;
mod operators;
mod publishing;
mod reporting;
mod restart;
mod revoking;
mod signing;
mod sites;
mod upkeep;
mod world;

use world::World;
