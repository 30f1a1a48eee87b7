//! Images as archives: layers unpacked and packed again, `load` and `save`, layers of containers' changes.
//!
//! ```text
//!  unpack(stream) -> Unpacked --Snapshotter::commit_layers--> layer <diff_id>      record: the archive's skeleton
//!  LayerArchive::open(diff_id) -> the same archive again, bit for bit, verified while it is read
//!  load(stream) -> images whose layers are there          save(images) -> stream
//!  unpack_changes(upper folder of a container) -> Unpacked          adopt_changes(snapshot) -> Unpacked, without a copy
//!  gzip(archive) -> packed by several threads, the same bytes every time: what a push sends
//! ```
//!
//! For a pull: [`berth_content::Ingest::follow`] gives a reader of a blob that is still being written; hand it to
//! [`unpack`] on a thread of its own with the `diff_id` of the image's configuration, and commit the layers of the
//! image together with [`berth_snapshot::Snapshotter::commit_layers`]. For a push: [`LayerArchive`] is the
//! uncompressed archive of a layer; [`decode`] and [`Packing`] know compressed streams by their first bytes.
//!
//! Everything here blocks and reads foreign bytes: names, numbers and sizes are bounded, and nothing that is not
//! whole and right is ever visible.

mod adopt;
mod archive;
mod changes;
mod decode;
mod deflate;
mod gzip;
mod inspect;
mod record;
mod stream;
mod tar;
mod unpack;

pub use adopt::adopt_changes;
pub use archive::{LoadError, Loaded, Loading, SaveError, ToSave, load, save};
pub use changes::{ChangesError, write_changes};
pub use decode::{Packing, decode};
pub use gzip::gzip;
pub use record::{LayerArchive, RecordError, check};
pub use tar::TarError;
pub use unpack::{CommitError, UnpackError, Unpacked, unpack, unpack_changes};
