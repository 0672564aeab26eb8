//! What each kind of step does.

pub(crate) mod archive;
pub(crate) mod file;
pub(crate) mod package;
pub(crate) mod run;
