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
pub(crate) const ALL: &[Migration] = &[
    Migration {
        version: 1,
        sql: FIRST,
    },
    Migration {
        version: 2,
        sql: FLEET,
    },
    Migration {
        version: 3,
        sql: ROLLOUTS,
    },
    Migration {
        version: 4,
        sql: AFTERWARDS,
    },
    Migration {
        version: 5,
        sql: TIMETABLE,
    },
    Migration {
        version: 6,
        sql: LEASES,
    },
];

/// Devices, the journal, leases, password answers, images.
const FIRST: &str = "
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
";

/// What a server keeps beside: the fleet, its health, tokens, the audit, its own events, firmware, feeds.
///
/// A device that was removed keeps its row, emptied, because its jobs, its lease's number and its counted answers stay.
/// Where `address` is empty a device has none, where `seen_ms` is 0 it never answered: both columns were made before that
/// could be.
/// A sample names its device by number, which is a fifth of its key's length.
const FLEET: &str = "
alter table device add column number bigint not null default 0;
alter table device add column given_as text;
alter table device add column sources text not null default '[]';
alter table device add column first_seen_ms bigint not null default 0;
alter table device add column enrolled_by text;
alter table device add column snapshot text;
alter table device add column online boolean not null default false;
alter table device add column restarts bigint not null default 0;
alter table device add column tags text not null default '[]';
alter table device add column group_name text;
alter table device add column pinned text;
alter table device add column skipped text not null default '[]';
alter table device add column username text;
alter table device add column sealed_password blob;
alter table device add column chip text;
alter table device add column slot_bytes bigint;
alter table device add column ota_wanted boolean;
alter table device add column before_installed text;
alter table device add column removed boolean not null default false;
update device set first_seen_ms = seen_ms,
    number = (select count(*) from device as other where other.id <= device.id);
create unique index device_number on device (number);

create table sample (
    device bigint not null,
    at_ms bigint not null,
    online boolean not null,
    uptime_s bigint,
    free_heap_bytes bigint,
    signal_dbm bigint,
    restarted boolean not null,
    primary key (device, at_ms)
) without rowid;

create table token (
    token integer not null primary key,
    name text not null,
    role text not null,
    hash blob unique,
    created_ms bigint not null,
    used_ms bigint,
    revoked boolean not null default false
);

create table log_head (
    log text not null primary key,
    seq bigint not null,
    hash text not null
);
insert into log_head (log, seq, hash) values ('audit', 0, ''), ('event', 0, '');

create table audit (
    seq integer not null primary key,
    at_ms bigint not null,
    actor text not null,
    source text not null,
    action text not null,
    target text not null,
    detail text not null,
    hash text not null
);

create table fleet_event (
    seq integer not null primary key,
    at_ms bigint not null,
    kind text not null,
    device text,
    detail text not null
);

create table setting (
    name text not null primary key,
    value text not null
);

create table request_answer (
    request text not null,
    actor text not null,
    fingerprint text not null,
    status bigint not null,
    body text not null,
    at_ms bigint not null,
    primary key (request, actor)
);
create index request_answer_at on request_answer (at_ms);

create table firmware (
    digest text not null primary key,
    len_bytes bigint not null,
    file_name text not null,
    info text not null,
    refusals text not null,
    state text not null,
    source text not null,
    origin text,
    added_ms bigint not null,
    approved_by text,
    approved_ms bigint,
    notes text
);

create table feed (
    name text not null primary key,
    url text not null,
    last_checked_ms bigint,
    last_ok_ms bigint,
    error text,
    file_name text,
    digest text,
    etag text,
    detail text not null
);
";

/// Rollouts with their members and the images they need; how each job ended, and for which rollout it was.
///
/// A job whose rollout was removed for its age stays, without it; so does a rollout whose predecessor was removed.
/// Of a job that has ended already, the last event tells when, and mostly how.
const ROLLOUTS: &str = "
create table rollout (
    rollout integer not null primary key,
    name text,
    kind text not null,
    plan text not null,
    state text not null,
    n_members bigint not null,
    created_ms bigint not null,
    created_by text not null,
    ended_ms bigint,
    predecessor bigint references rollout (rollout) on delete set null
);
create index rollout_open on rollout (rollout) where ended_ms is null;
create index rollout_predecessor on rollout (predecessor);

create table rollout_member (
    rollout bigint not null references rollout (rollout),
    idx bigint not null,
    device text not null references device (id),
    state text not null,
    primary key (rollout, idx)
);
create unique index rollout_member_device on rollout_member (device, rollout);

create table rollout_image (
    rollout bigint not null references rollout (rollout),
    digest text not null,
    primary key (rollout, digest)
);

alter table job add column rollout bigint references rollout (rollout) on delete set null;
alter table job add column outcome text;
alter table job add column ending text;
alter table job add column ended_ms bigint;
update job set ended_ms = (select job_event.wall_ms from job_event
    where job_event.job = job.job and job_event.seq = job.last_seq) where finished;
update job set outcome = (select job_event.detail from job_event
    where job_event.job = job.job and job_event.seq = job.last_seq and job_event.step = 'finished'
    and case when json_valid(job_event.detail) then job_event.detail ->> 'ending' is not null else false end)
    where finished;
update job set ending = outcome ->> 'ending' where outcome is not null;
create index job_device on job (device, job);
create index job_rollout on job (rollout, job);
create index job_ended on job (ended_ms);
";

/// What comes after a job: ends that are to be proven later, and images that have failed too often.
///
/// A quarantine is kept beside the state of its image, which says how far the way that it came can be trusted. Where one was
/// lifted, jobs up to `cleared_job` count no more.
const AFTERWARDS: &str = "
alter table firmware add column quarantine text;
alter table firmware add column cleared_job bigint not null default 0;
create index job_unverified on job (ended_ms) where ending = 'unverified';
create index job_image on job (image, job);
";

/// Windows and schedules that were made while the server ran, and what each schedule did; before, its minutes were settings.
///
/// Those settings are forgotten: what was due before a schedule is known is never made up for, so that nothing comes twice.
const TIMETABLE: &str = "
create table timetable (
    kind text not null,
    name text not null,
    entry text not null,
    changed_ms bigint not null,
    changed_by text not null,
    primary key (kind, name)
);

create table schedule_turn (
    schedule text not null primary key,
    times text not null,
    since_ms bigint not null,
    done text not null,
    last text
);
delete from setting where substr(name, 1, 9) = 'schedule.';
";

/// Leases by the clock since boot; and since when somebody of each boot asks for one in vain.
const LEASES: &str = "
alter table lease add column renewed_boot_ns bigint;

create table lease_asked (
    device text not null references lease (device),
    boot_id text not null,
    boot_ns bigint not null,
    primary key (device, boot_id)
);
";
