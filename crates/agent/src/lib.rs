//! The managed node: joins discovery, swarm, store, network and execution.
