//! One lease per device: who may push to it, and write of it, now.

use std::time::Duration;

use model::id::DeviceId;
use model::lease::{Held, Liveness, Ruling, ruling};
use model::time::Now;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::Store;
use crate::error::LeaseError;
use crate::inventory::{decode, key};
use crate::journal::boot_ns;
use crate::process::Holder;

/// A lease, and what its device may still be going through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseGrant {
    /// Nobody held it.
    Fresh {
        /// Its fencing number.
        epoch: i64,
    },
    /// The holder was a process of this machine, and it is dead: wait the device's stall limit.
    TookOverDead {
        /// Its fencing number.
        epoch: i64,
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
            Self::Fresh { epoch } | Self::TookOverDead { epoch } | Self::Expired { epoch } => epoch,
        }
    }
}

struct Lease {
    epoch: i64,
    held: bool,
    holder: Holder,
    /// On the clock of the holder's boot; none where an earlier version of the program wrote it.
    renewed: Option<Duration>,
}

impl Store {
    /// Takes the lease of a device, or is told how long to wait for it. `alive` tells whether a holder still lives:
    /// [`crate::process_is_alive`]. The wall clock of `now` is only kept for people.
    pub async fn acquire_lease(
        &self,
        id: &DeviceId,
        holder: &Holder,
        now: Now,
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
            "select epoch, held, host, boot_id, pid, start_ticks, renewed_boot_ns from lease where device = $1",
        )
        .bind(key(id))
        .fetch_optional(write.connection())
        .await
        .and_then(|row| row.as_ref().map(lease).transpose())
        .map_err(write.failed())?;
        let grant = match found {
            None => LeaseGrant::Fresh { epoch: 1 },
            Some(lease) if !lease.held => LeaseGrant::Fresh {
                epoch: lease.epoch + 1,
            },
            Some(lease) => {
                let asked: Option<i64> =
                    sqlx::query_scalar("select boot_ns from lease_asked where device = $1 and boot_id = $2")
                        .bind(key(id))
                        .bind(&holder.boot_id)
                        .fetch_optional(write.connection())
                        .await
                        .map_err(write.failed())?;
                let epoch = lease.epoch + 1;
                match ruling(held(&lease, holder, asked, now, alive), now.boot) {
                    Ruling::TakesFromDead => LeaseGrant::TookOverDead { epoch },
                    Ruling::Takes => LeaseGrant::Expired { epoch },
                    Ruling::Waits(free_in) => {
                        sqlx::query(
                            "insert into lease_asked (device, boot_id, boot_ns) values ($1, $2, $3) \
                             on conflict (device, boot_id) do nothing",
                        )
                        .bind(key(id))
                        .bind(&holder.boot_id)
                        .bind(boot_ns(now))
                        .execute(write.connection())
                        .await
                        .map_err(write.failed())?;
                        write.commit().await?;
                        return Err(LeaseError::Held {
                            by: lease.holder,
                            free_in,
                        });
                    }
                }
            }
        };
        sqlx::query(
            "insert into lease (device, epoch, held, host, boot_id, pid, start_ticks, renewed_ms, renewed_boot_ns) \
             values ($1, $2, true, $3, $4, $5, $6, $7, $8) \
             on conflict (device) do update set epoch = excluded.epoch, held = true, host = excluded.host, \
             boot_id = excluded.boot_id, pid = excluded.pid, start_ticks = excluded.start_ticks, \
             renewed_ms = excluded.renewed_ms, renewed_boot_ns = excluded.renewed_boot_ns",
        )
        .bind(key(id))
        .bind(grant.epoch())
        .bind(&holder.host)
        .bind(&holder.boot_id)
        .bind(i64::from(holder.pid))
        .bind(holder.process_start_ticks.cast_signed())
        .bind(now.wall_ms)
        .bind(boot_ns(now))
        .execute(write.connection())
        .await
        .map_err(write.failed())?;
        nobody_asks(write.connection(), id)
            .await
            .map_err(write.failed())?;
        write.commit().await?;
        Ok(grant)
    }

    /// Keeps the lease for another [`model::lease::TTL`]; [`LeaseError::Fenced`] once it is not ours any more.
    pub async fn renew_lease(&self, id: &DeviceId, epoch: i64, now: Now) -> Result<(), LeaseError> {
        let mut write = self.write("renewing the lease of a device").await?;
        let n_changed = sqlx::query(
            "update lease set renewed_ms = $3, renewed_boot_ns = $4 where device = $1 and epoch = $2 and held",
        )
        .bind(key(id))
        .bind(epoch)
        .bind(now.wall_ms)
        .bind(boot_ns(now))
        .execute(write.connection())
        .await
        .map_err(write.failed())?
        .rows_affected();
        if n_changed == 0 {
            return Err(LeaseError::Fenced);
        }
        nobody_asks(write.connection(), id)
            .await
            .map_err(write.failed())?;
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

/// Who asks now asks anew: it is known that the holder lives, or that there is another one.
async fn nobody_asks(connection: &mut SqliteConnection, id: &DeviceId) -> Result<(), sqlx::Error> {
    sqlx::query("delete from lease_asked where device = $1")
        .bind(key(id))
        .execute(connection)
        .await
        .map(drop)
}

/// The lease as this process sees it.
fn held(
    lease: &Lease,
    asks: &Holder,
    asked_ns: Option<i64>,
    now: Now,
    alive: impl Fn(&Holder) -> Liveness,
) -> Held {
    let holder = alive(&lease.holder);
    let of_this_boot = lease.holder.boot_id == asks.boot_id;
    Held {
        holder,
        renewed: match lease.renewed {
            renewed @ Some(_) => renewed.filter(|_| of_this_boot),
            // An earlier version renews it where this one does not see it.
            None => (holder == Liveness::Alive).then_some(now.boot),
        },
        asked: asked_ns
            .and_then(|ns| u64::try_from(ns).ok())
            .map(Duration::from_nanos),
    }
}

fn lease(row: &SqliteRow) -> Result<Lease, sqlx::Error> {
    let pid: i64 = row.try_get("pid")?;
    let start_ticks: i64 = row.try_get("start_ticks")?;
    let renewed_ns: Option<i64> = row.try_get("renewed_boot_ns")?;
    let renewed_ns = renewed_ns.map(u64::try_from).transpose().map_err(decode)?;
    Ok(Lease {
        epoch: row.try_get("epoch")?,
        held: row.try_get("held")?,
        holder: Holder {
            host: row.try_get("host")?,
            boot_id: row.try_get("boot_id")?,
            pid: u32::try_from(pid).map_err(decode)?,
            process_start_ticks: start_ticks.cast_unsigned(),
        },
        renewed: renewed_ns.map(Duration::from_nanos),
    })
}
