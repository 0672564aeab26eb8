//! Content-addressed files and chunks on a node's disk.
