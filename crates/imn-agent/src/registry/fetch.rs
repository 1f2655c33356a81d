//! An executable, chunk by chunk, by direct reading: agents make no consumers.

use std::{io, time::Duration};

use imn_contract::{latest::ModuleManifest, stream};
use imn_runtime::{file, nats::Client};
use sha2::{Digest, Sha256};
use tokio::{fs::File, io::AsyncWriteExt};

use super::{error::Refusal, install::Directory, install::Part};

/// How long an executable may take to arrive as a whole.
const WITHIN: Duration = Duration::from_mins(5);
/// What is left free on the device beside an executable.
const ROOM: u64 = 16 << 20;

/// Fetches the executable of a manifest into the directory, under a name that nobody runs, and verifies it.
pub(super) async fn fetch(
    client: &Client,
    manifest: &ModuleManifest,
    directory: &Directory,
) -> Result<Part, Refusal> {
    file::require_free(directory.path(), manifest.size.saturating_add(ROOM))?;
    let part = directory.part(&manifest.kind);
    match tokio::time::timeout(WITHIN, write(client, manifest, &part)).await {
        Ok(written) => written.map(|()| part),
        Err(_) => Err(Refusal::Late { after: WITHIN }),
    }
}

async fn write(client: &Client, manifest: &ModuleManifest, part: &Part) -> Result<(), Refusal> {
    let wanted = manifest.size;
    let failed = |source: io::Error| Refusal::Write { path: part.path().display().to_string(), source };
    let mut file = File::create_new(part.path()).await.map_err(failed)?;
    let subject = stream::artifact_chunks(&manifest.object);
    let (mut size, mut sequence, mut digest) = (0_u64, 1, Sha256::new());
    while size < wanted {
        let chunk = client.direct_next(stream::ARTIFACTS, &subject, sequence).await?;
        // An empty one would bring it no nearer to its end.
        let Some(chunk) = chunk.filter(|chunk| !chunk.payload.is_empty()) else {
            return Err(Refusal::Short { found: size, wanted });
        };
        size += chunk.payload.len() as u64;
        if size > wanted {
            return Err(Refusal::Long { wanted });
        }
        sequence = chunk.sequence + 1;
        digest.update(&chunk.payload);
        file.write_all(&chunk.payload).await.map_err(failed)?;
    }
    file.sync_all().await.map_err(failed)?;
    let found = super::record::hex(&digest.finalize());
    if found != manifest.sha256 {
        return Err(Refusal::Altered { found, wanted: manifest.sha256.clone() });
    }
    Ok(())
}
