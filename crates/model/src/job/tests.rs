//! What a job may and may not do.
