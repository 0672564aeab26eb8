//! The management server: catalogue, assignments, joining, reports and the origin.
