//! The allocator, set for a small server that runs for years (docs/decisions/0020).

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// One arena for all threads, small caches for each, and what is free is given back after a tenth of a second instead of ten.
/// Measured with 1,000 devices: with nothing kept at all a look costs a third more (bench/RESULTS-server.md).
const SETTINGS: &[u8] = b"narenas:1,dirty_decay_ms:100,muzzy_decay_ms:0,lg_tcache_max:11,\
    tcache_nslots_small_min:4,tcache_nslots_small_max:16\0";

/// A pointer to text, as C has it.
#[expect(
    unsafe_code,
    reason = "jemalloc looks for its settings under this name, and nobody else has it"
)]
#[unsafe(export_name = "malloc_conf")]
static MALLOC_CONF: Option<&[u8; SETTINGS.len()]> = SETTINGS.first_chunk();
