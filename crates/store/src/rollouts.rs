//! Rollouts and their members: what was planned, which never changes, and how it stands.

use model::id::{DeviceId, RolloutId, Sha256};
use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::error::{RolloutError, StoreError};
use crate::idempotency::{Asked, made};
use crate::inventory::{decode, device_id, from_json, key, to_json};
use crate::{Store, Write};

/// How many members are read at once: a row as it is read takes some ten times the memory of what it says.
const N_AT_ONCE: i64 = 64;

/// A rollout that is to begin.
#[derive(Clone, Copy, Debug)]
pub struct NewRollout<'a> {
    /// What people call it.
    pub name: Option<&'a str>,
    /// What it does: `update`, `rollback`.
    pub kind: &'a str,
    /// What was planned; it is never changed.
    pub plan: &'a Value,
    /// How it stands, without its members.
    pub state: &'a Value,
    /// When it was asked for, milliseconds since 1970.
    pub created_ms: i64,
    /// Who asked for it.
    pub created_by: &'a str,
    /// The rollout that it follows, as one that takes it back.
    pub predecessor: Option<RolloutId>,
    /// The images of the repository that it needs: they cannot be removed until it has ended.
    pub images: &'a [Sha256],
    /// The request that asks for it, if that may come again: what it made is remembered with it.
    pub asked: Option<Asked<'a>>,
}

/// A rollout, without its plan and its members, which may be a thousand times as much.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutRow {
    /// Its number, which is never given again.
    pub id: RolloutId,
    /// What people call it.
    pub name: Option<String>,
    /// What it does: `update`, `rollback`.
    pub kind: String,
    /// How it stands, without its members.
    pub state: Value,
    /// How many members it has.
    pub n_members: u32,
    /// When it was asked for, milliseconds since 1970.
    pub created_ms: i64,
    /// Who asked for it.
    pub created_by: String,
    /// When it ended, milliseconds since 1970; none while it is open.
    pub ended_ms: Option<i64>,
    /// The rollout that it follows; none also where that one was removed for its age.
    pub predecessor: Option<RolloutId>,
}

/// A device of a rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberRow {
    /// The device, once in a rollout.
    pub device: DeviceId,
    /// Its place in the plan, from 0.
    pub idx: u32,
    /// How it stands.
    pub state: Value,
}

/// All of a rollout, as of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct WholeRollout {
    /// The rollout.
    pub row: RolloutRow,
    /// What was planned.
    pub plan: Value,
    /// Its members, in the order of the plan.
    pub members: Vec<MemberRow>,
}

/// What has changed in a rollout.
#[derive(Clone, Copy, Debug)]
pub struct RolloutChange<'a> {
    /// The rollout.
    pub id: RolloutId,
    /// How it stands now, without its members.
    pub state: &'a Value,
    /// When it ended, milliseconds since 1970; nothing can be changed in it afterwards.
    pub ended_ms: Option<i64>,
    /// The members that stand differently now; the others stay.
    pub changed: &'a [MemberRow],
}

macro_rules! select_rollout {
    ($tail:literal) => {
        concat!(
            "select rollout, name, kind, state, n_members, created_ms, created_by, ended_ms, predecessor \
             from rollout",
            $tail
        )
    };
}

impl Store {
    /// Stores a rollout with its members, all or nothing. When this returns, it survives a power cut.
    ///
    /// Refused where a device is not known, an image is not in the repository, or the predecessor is not there.
    pub async fn create_rollout(
        &self,
        rollout: &NewRollout<'_>,
        members: &[MemberRow],
    ) -> Result<RolloutId, RolloutError> {
        const DOING: &str = "storing a rollout";
        let n_members = u32::try_from(members.len()).map_err(|_| StoreError::corrupt(DOING))?;
        let mut write = self.write(DOING).await?;
        if let Some(predecessor) = rollout.predecessor {
            let n_rollouts: i64 = sqlx::query_scalar("select count(*) from rollout where rollout = $1")
                .bind(predecessor.0)
                .fetch_one(write.connection())
                .await
                .map_err(write.failed())?;
            if n_rollouts == 0 {
                return Err(RolloutError::Unknown(predecessor));
            }
        }
        let id: i64 = sqlx::query_scalar(
            "insert into rollout (name, kind, plan, state, n_members, created_ms, created_by, predecessor) \
             values ($1, $2, $3, $4, $5, $6, $7, $8) returning rollout",
        )
        .bind(rollout.name)
        .bind(rollout.kind)
        .bind(to_json(rollout.plan))
        .bind(to_json(rollout.state))
        .bind(i64::from(n_members))
        .bind(rollout.created_ms)
        .bind(rollout.created_by)
        .bind(rollout.predecessor.map(|predecessor| predecessor.0))
        .fetch_one(write.connection())
        .await
        .map_err(write.failed())?;
        for image in rollout.images {
            let n_images = sqlx::query(
                "insert into rollout_image (rollout, digest) select $1, digest from firmware where digest = $2 \
                 on conflict (rollout, digest) do update set digest = excluded.digest",
            )
            .bind(id)
            .bind(image.to_string())
            .execute(write.connection())
            .await
            .map_err(write.failed())?
            .rows_affected();
            if n_images == 0 {
                return Err(RolloutError::NoSuchImage(*image));
            }
        }
        for member in members {
            // The same text each time, which is prepared once and kept by the connection.
            let n_added = sqlx::query(
                "insert into rollout_member (rollout, idx, device, state) \
                 select $1, $2, id, $4 from device where id = $3 and not removed",
            )
            .bind(id)
            .bind(i64::from(member.idx))
            .bind(key(&member.device))
            .bind(to_json(&member.state))
            .execute(write.connection())
            .await
            .map_err(write.failed())?
            .rows_affected();
            if n_added == 0 {
                return Err(RolloutError::UnknownDevice {
                    device: member.device.to_string(),
                });
            }
        }
        if let Some(asked) = &rollout.asked {
            made(
                write.connection(),
                asked,
                rollout.created_by,
                id,
                rollout.created_ms,
            )
            .await
            .map_err(write.failed())?;
        }
        write.commit().await?;
        Ok(RolloutId(id))
    }

    /// Stores how a rollout stands, and those of its members that have changed, all or nothing.
    /// When this returns, it survives a power cut.
    pub async fn save_rollout(
        &self,
        id: RolloutId,
        state: &Value,
        ended_ms: Option<i64>,
        changed: &[MemberRow],
    ) -> Result<(), RolloutError> {
        let change = RolloutChange {
            id,
            state,
            ended_ms,
            changed,
        };
        self.save_rollouts(&[change]).await
    }

    /// Stores what has changed in several rollouts, all or nothing. When this returns, it survives a power cut.
    ///
    /// Refused where one has ended, or a device is not the member at its place.
    pub async fn save_rollouts(&self, changes: &[RolloutChange<'_>]) -> Result<(), RolloutError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut write = self.write("storing how a rollout stands").await?;
        for change in changes {
            save(&mut write, change).await?;
        }
        Ok(write.commit().await?)
    }

    /// Stores how a member of a rollout that has ended stands by now: the end of its job was corrected.
    /// When this returns, it survives a power cut.
    ///
    /// Refused where the rollout has not ended, or the device is no member of it.
    pub async fn correct_member(
        &self,
        id: RolloutId,
        device: &DeviceId,
        state: &Value,
    ) -> Result<(), RolloutError> {
        let mut write = self.write("correcting the end of a device's update").await?;
        let n_changed = sqlx::query(
            "update rollout_member set state = $3 where rollout = $1 and device = $2 and exists \
             (select 1 from rollout where rollout.rollout = $1 and rollout.ended_ms is not null)",
        )
        .bind(id.0)
        .bind(key(device))
        .bind(to_json(state))
        .execute(write.connection())
        .await
        .map_err(write.failed())?
        .rows_affected();
        if n_changed == 0 {
            return Err(RolloutError::NotAMember {
                rollout: id,
                device: device.to_string(),
            });
        }
        Ok(write.commit().await?)
    }

    /// The rollouts, the newest first, from the one before `before` on.
    pub async fn rollouts(
        &self,
        limit: u32,
        before: Option<RolloutId>,
    ) -> Result<Vec<RolloutRow>, StoreError> {
        const DOING: &str = "reading the rollouts";
        sqlx::query(select_rollout!(
            " where rollout < $1 order by rollout desc limit $2"
        ))
        .bind(before.map_or(i64::MAX, |before| before.0))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .and_then(|rows| rows.iter().map(rollout_row).collect())
        .map_err(|source| StoreError::new(DOING, source))
    }

    /// All of a rollout; none where it was never stored or was removed for its age.
    pub async fn rollout(&self, id: RolloutId) -> Result<Option<WholeRollout>, StoreError> {
        const DOING: &str = "reading a rollout";
        let failed = |source| StoreError::new(DOING, source);
        let mut read = self.readers().begin().await.map_err(failed)?;
        whole(&mut read, id).await.map_err(failed)
    }

    /// All of the rollouts that have not ended, as of one moment, the oldest first.
    pub async fn open_rollouts(&self) -> Result<Vec<WholeRollout>, StoreError> {
        const DOING: &str = "reading the open rollouts";
        let failed = |source| StoreError::new(DOING, source);
        let mut read = self.readers().begin().await.map_err(failed)?;
        let ids: Vec<i64> =
            sqlx::query_scalar("select rollout from rollout where ended_ms is null order by rollout")
                .fetch_all(&mut *read)
                .await
                .map_err(failed)?;
        let mut open = Vec::with_capacity(ids.len());
        for id in ids {
            open.extend(whole(&mut read, RolloutId(id)).await.map_err(failed)?);
        }
        Ok(open)
    }
}

async fn save(write: &mut Write<'_>, change: &RolloutChange<'_>) -> Result<(), RolloutError> {
    let n_changed =
        sqlx::query("update rollout set state = $2, ended_ms = $3 where rollout = $1 and ended_ms is null")
            .bind(change.id.0)
            .bind(to_json(change.state))
            .bind(change.ended_ms)
            .execute(write.connection())
            .await
            .map_err(write.failed())?
            .rows_affected();
    if n_changed == 0 {
        let n_rollouts: i64 = sqlx::query_scalar("select count(*) from rollout where rollout = $1")
            .bind(change.id.0)
            .fetch_one(write.connection())
            .await
            .map_err(write.failed())?;
        return Err(match n_rollouts {
            0 => RolloutError::Unknown(change.id),
            _ => RolloutError::Ended(change.id),
        });
    }
    for member in change.changed {
        // The same text each time, which is prepared once and kept by the connection.
        let n_changed = sqlx::query(
            "update rollout_member set state = $4 where rollout = $1 and idx = $2 and device = $3",
        )
        .bind(change.id.0)
        .bind(i64::from(member.idx))
        .bind(key(&member.device))
        .bind(to_json(&member.state))
        .execute(write.connection())
        .await
        .map_err(write.failed())?
        .rows_affected();
        if n_changed == 0 {
            return Err(RolloutError::NotAMember {
                rollout: change.id,
                device: member.device.to_string(),
            });
        }
    }
    Ok(())
}

/// Whether the rollout is open and the device one of its members.
pub(crate) async fn is_open_member(
    connection: &mut SqliteConnection,
    rollout: RolloutId,
    device: &str,
) -> Result<bool, sqlx::Error> {
    let n_members: i64 = sqlx::query_scalar(
        "select count(*) from rollout_member join rollout on rollout.rollout = rollout_member.rollout \
         where rollout_member.device = $2 and rollout_member.rollout = $1 and rollout.ended_ms is null",
    )
    .bind(rollout.0)
    .bind(device)
    .fetch_one(connection)
    .await?;
    Ok(n_members == 1)
}

/// The first open rollout that needs an image.
pub(crate) async fn rollout_that_needs(
    connection: &mut SqliteConnection,
    image: &str,
) -> Result<Option<RolloutId>, sqlx::Error> {
    let rollout: Option<i64> = sqlx::query_scalar(
        "select rollout.rollout from rollout join rollout_image on rollout_image.rollout = rollout.rollout \
         where rollout.ended_ms is null and rollout_image.digest = $1 order by rollout.rollout limit 1",
    )
    .bind(image)
    .fetch_optional(connection)
    .await?;
    Ok(rollout.map(RolloutId))
}

async fn whole(
    connection: &mut SqliteConnection,
    id: RolloutId,
) -> Result<Option<WholeRollout>, sqlx::Error> {
    let Some(row) = sqlx::query(select_rollout!(" where rollout = $1"))
        .bind(id.0)
        .fetch_optional(&mut *connection)
        .await?
    else {
        return Ok(None);
    };
    let row = rollout_row(&row)?;
    let plan: String = sqlx::query_scalar("select plan from rollout where rollout = $1")
        .bind(id.0)
        .fetch_one(&mut *connection)
        .await?;
    let plan = from_json(&plan)?;
    let mut members: Vec<MemberRow> = Vec::new();
    loop {
        let after = members.last().map_or(-1, |member| i64::from(member.idx));
        let rows = sqlx::query(
            "select rollout_member.idx, rollout_member.state, family, hardware, strength \
             from rollout_member join device on device.id = rollout_member.device \
             where rollout_member.rollout = $1 and rollout_member.idx > $2 \
             order by rollout_member.idx limit $3",
        )
        .bind(id.0)
        .bind(after)
        .bind(N_AT_ONCE)
        .fetch_all(&mut *connection)
        .await?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            members.push(member_row(row)?);
        }
    }
    if members.len() != row.n_members as usize {
        return Err(decode("a rollout has lost members"));
    }
    Ok(Some(WholeRollout { row, plan, members }))
}

fn rollout_row(row: &SqliteRow) -> Result<RolloutRow, sqlx::Error> {
    let n_members: i64 = row.try_get("n_members")?;
    let predecessor: Option<i64> = row.try_get("predecessor")?;
    Ok(RolloutRow {
        id: RolloutId(row.try_get("rollout")?),
        name: row.try_get("name")?,
        kind: row.try_get("kind")?,
        state: from_json(row.try_get("state")?)?,
        n_members: u32::try_from(n_members).map_err(decode)?,
        created_ms: row.try_get("created_ms")?,
        created_by: row.try_get("created_by")?,
        ended_ms: row.try_get("ended_ms")?,
        predecessor: predecessor.map(RolloutId),
    })
}

fn member_row(row: &SqliteRow) -> Result<MemberRow, sqlx::Error> {
    let idx: i64 = row.try_get("idx")?;
    Ok(MemberRow {
        device: device_id(row)?,
        idx: u32::try_from(idx).map_err(decode)?,
        state: from_json(row.try_get("state")?)?,
    })
}
