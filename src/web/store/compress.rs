//! Compressed forms, made once so that a request finds them ready.

use std::io::Write as _;

use bytes::Bytes;

use super::Coding;

/// Below this many bytes the head of the answer is larger than what compression saves.
const MIN: usize = 256;
/// Near the end of brotli's scale: 11 takes ten times as long for the last few per cent, and a start should be quick.
const BROTLI_QUALITY: i32 = 9;
/// log2 of brotli's window; 22 is its customary default.
const BROTLI_WINDOW: i32 = 22;

/// The form of `plain` in `coding`, when it saves at least a twentieth.
pub fn compress(plain: &[u8], coding: Coding) -> Option<Bytes> {
    if plain.len() < MIN {
        return None;
    }
    let coded = match coding {
        Coding::Gzip => gzip(plain),
        Coding::Brotli => brotli(plain),
        // Brotli and gzip cover every browser; zstd is served where the folder has it.
        Coding::Zstd | Coding::Identity => None,
    }?;
    (coded.len() <= plain.len() - plain.len() / 20).then(|| coded.into())
}

fn gzip(plain: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(plain).ok()?;
    encoder.finish().ok()
}

fn brotli(plain: &[u8]) -> Option<Vec<u8>> {
    let params = brotli::enc::BrotliEncoderParams {
        quality: BROTLI_QUALITY,
        lgwin: BROTLI_WINDOW,
        size_hint: plain.len(),
        ..Default::default()
    };
    let mut coded = Vec::new();
    brotli::BrotliCompress(&mut &plain[..], &mut coded, &params).ok()?;
    Some(coded)
}
