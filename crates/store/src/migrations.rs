//! The schema, version by version.
//!
//! JSON lies in `text` columns: `jsonb` has numeric affinity in `SQLite`, so that a bare number would come back as one.

/// One step of the schema. Never edited once released: a change is a new step.
pub(crate) struct Migration {
    /// The schema's version after it.
    pub(crate) version: i64,
    /// Its statements.
    pub(crate) sql: &'static str,
}

/// All steps in order.
pub(crate) const ALL: &[Migration] = &[Migration {
    version: 1,
    sql: "
create table device (
    id text not null primary key,
    family text not null,
    hardware text not null,
    strength text not null,
    address text not null,
    name text,
    seen_ms bigint not null,
    enrolled_ms bigint,
    notes text not null,
    installed text,
    installed_ms bigint,
    unlocked_answer bigint not null default 0
);
create index device_address on device (address);

create table lease (
    device text not null primary key references device (id),
    epoch bigint not null,
    held boolean not null,
    host text not null,
    boot_id text not null,
    pid bigint not null,
    start_ticks bigint not null,
    renewed_ms bigint not null
);

create table job (
    job integer not null primary key,
    device text not null references device (id),
    image text not null,
    started_ms bigint not null,
    last_seq bigint not null,
    finished boolean not null
);
create unique index job_unfinished on job (device) where not finished;

create table job_event (
    job bigint not null references job (job),
    seq bigint not null,
    epoch bigint not null,
    attempt bigint not null,
    step text not null,
    detail text not null,
    state text not null,
    boot_id text not null,
    boot_ns bigint not null,
    wall_ms bigint not null,
    primary key (job, seq)
);

create table pending_undo (
    device text not null primary key references device (id),
    job bigint references job (job),
    value text not null,
    since_ms bigint not null
);

create table answer (
    answer integer not null primary key,
    device text not null references device (id),
    counted_ms bigint not null,
    accepted boolean not null
);
create index answer_device on answer (device, counted_ms);

create table image_name (
    digest text not null,
    file_name text not null,
    len_bytes bigint not null,
    first_seen_ms bigint not null,
    primary key (digest, file_name)
);
",
}];
