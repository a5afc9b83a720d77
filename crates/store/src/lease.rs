//! One lease per device: who may push to it, and write of it, now.

use model::id::DeviceId;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::Store;
use crate::error::LeaseError;
use crate::inventory::{decode, key};
use crate::process::{Holder, Liveness};

/// How long a lease lasts after it was renewed, milliseconds (RELIABILITY.md section 5, 5).
pub const LEASE_TTL_MS: i64 = 60_000;
/// How much longer another one waits before it takes over, milliseconds (RELIABILITY.md section 5, 5).
pub const GRACE_MS: i64 = 30_000;

/// A lease, and what its device may still be going through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseGrant {
    /// Nobody held it.
    Fresh {
        /// Its fencing number.
        epoch: i64,
    },
    /// The holder was a process of this machine and this run, and it is dead: wait the device's stall limit.
    TookOverDead {
        /// Its fencing number.
        epoch: i64,
        /// When the dead one renewed it last, milliseconds since 1970.
        since_wall_ms: i64,
    },
    /// The holder did not renew it in time.
    Expired {
        /// Its fencing number.
        epoch: i64,
    },
}

impl LeaseGrant {
    /// Its fencing number: one more than that of the lease before.
    pub fn epoch(&self) -> i64 {
        match *self {
            Self::Fresh { epoch } | Self::TookOverDead { epoch, .. } | Self::Expired { epoch } => epoch,
        }
    }
}

struct Lease {
    epoch: i64,
    held: bool,
    holder: Holder,
    renewed_ms: i64,
}

impl Store {
    /// Takes the lease of a device. `alive` tells whether a holder still lives: [`crate::process_is_alive`].
    pub async fn acquire_lease(
        &self,
        id: &DeviceId,
        holder: &Holder,
        now_wall_ms: i64,
        alive: impl Fn(&Holder) -> Liveness + Send,
    ) -> Result<LeaseGrant, LeaseError> {
        let mut write = self.write("taking the lease of a device").await?;
        let n_devices: i64 = sqlx::query_scalar("select count(*) from device where id = $1 and not removed")
            .bind(key(id))
            .fetch_one(write.connection())
            .await
            .map_err(write.failed())?;
        if n_devices == 0 {
            return Err(LeaseError::UnknownDevice {
                device: id.to_string(),
            });
        }
        let found = sqlx::query(
            "select epoch, held, host, boot_id, pid, start_ticks, renewed_ms from lease where device = $1",
        )
        .bind(key(id))
        .fetch_optional(write.connection())
        .await
        .and_then(|row| row.as_ref().map(lease).transpose())
        .map_err(write.failed())?;
        let grant = match found {
            None => LeaseGrant::Fresh { epoch: 1 },
            Some(lease) => grant(lease, now_wall_ms, alive)?,
        };
        sqlx::query(
            "insert into lease (device, epoch, held, host, boot_id, pid, start_ticks, renewed_ms) \
             values ($1, $2, true, $3, $4, $5, $6, $7) \
             on conflict (device) do update set epoch = excluded.epoch, held = true, host = excluded.host, \
             boot_id = excluded.boot_id, pid = excluded.pid, start_ticks = excluded.start_ticks, \
             renewed_ms = excluded.renewed_ms",
        )
        .bind(key(id))
        .bind(grant.epoch())
        .bind(&holder.host)
        .bind(&holder.boot_id)
        .bind(i64::from(holder.pid))
        .bind(holder.process_start_ticks.cast_signed())
        .bind(now_wall_ms)
        .execute(write.connection())
        .await
        .map_err(write.failed())?;
        write.commit().await?;
        Ok(grant)
    }

    /// Keeps the lease for another [`LEASE_TTL_MS`]; [`LeaseError::Fenced`] once it is not ours any more.
    pub async fn renew_lease(&self, id: &DeviceId, epoch: i64, wall_ms: i64) -> Result<(), LeaseError> {
        let mut write = self.write("renewing the lease of a device").await?;
        let n_changed =
            sqlx::query("update lease set renewed_ms = $3 where device = $1 and epoch = $2 and held")
                .bind(key(id))
                .bind(epoch)
                .bind(wall_ms)
                .execute(write.connection())
                .await
                .map_err(write.failed())?
                .rows_affected();
        if n_changed == 0 {
            return Err(LeaseError::Fenced);
        }
        Ok(write.commit().await?)
    }

    /// Gives the lease back; nothing can be written with its epoch afterwards.
    pub async fn release_lease(&self, id: &DeviceId, epoch: i64) -> Result<(), LeaseError> {
        let mut write = self.write("releasing the lease of a device").await?;
        let n_changed =
            sqlx::query("update lease set held = false where device = $1 and epoch = $2 and held")
                .bind(key(id))
                .bind(epoch)
                .execute(write.connection())
                .await
                .map_err(write.failed())?
                .rows_affected();
        if n_changed == 0 {
            return Err(LeaseError::Fenced);
        }
        Ok(write.commit().await?)
    }
}

/// Whether this epoch is the one that may write of the device.
pub(crate) async fn is_held(
    connection: &mut SqliteConnection,
    device: &str,
    epoch: i64,
) -> Result<bool, sqlx::Error> {
    let n_leases: i64 =
        sqlx::query_scalar("select count(*) from lease where device = $1 and epoch = $2 and held")
            .bind(device)
            .bind(epoch)
            .fetch_one(connection)
            .await?;
    Ok(n_leases == 1)
}

fn grant(
    lease: Lease,
    now_wall_ms: i64,
    alive: impl Fn(&Holder) -> Liveness,
) -> Result<LeaseGrant, LeaseError> {
    let epoch = lease.epoch + 1;
    if !lease.held {
        return Ok(LeaseGrant::Fresh { epoch });
    }
    if alive(&lease.holder) == Liveness::Dead {
        return Ok(LeaseGrant::TookOverDead {
            epoch,
            since_wall_ms: lease.renewed_ms,
        });
    }
    let until_wall_ms = lease.renewed_ms + LEASE_TTL_MS + GRACE_MS;
    if now_wall_ms >= until_wall_ms {
        return Ok(LeaseGrant::Expired { epoch });
    }
    Err(LeaseError::Held {
        by: lease.holder,
        until_wall_ms,
    })
}

fn lease(row: &SqliteRow) -> Result<Lease, sqlx::Error> {
    let pid: i64 = row.try_get("pid")?;
    let start_ticks: i64 = row.try_get("start_ticks")?;
    Ok(Lease {
        epoch: row.try_get("epoch")?,
        held: row.try_get("held")?,
        holder: Holder {
            host: row.try_get("host")?,
            boot_id: row.try_get("boot_id")?,
            pid: u32::try_from(pid).map_err(decode)?,
            process_start_ticks: start_ticks.cast_unsigned(),
        },
        renewed_ms: row.try_get("renewed_ms")?,
    })
}
