//! A deterministic world for the core: nodes, links, faults and checkers.
