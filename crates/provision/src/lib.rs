//! Executes a list: steps, guards and the journal, in a process of its own.
