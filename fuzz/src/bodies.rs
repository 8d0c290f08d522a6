//! Chunked bodies.

use bytes::BytesMut;
use trivet_http::body::{self, BadBody, Decoder, Framing, Step};

use super::strict_reader;

/// Content, trailers and what is left over.
type Decoded = (Vec<u8>, Vec<u8>, Vec<u8>);

fn decode(bytes: &[u8], piece: usize) -> Result<Option<Decoded>, BadBody> {
    let mut decoder = Decoder::new(Framing::Chunked);
    let (mut buffer, mut content) = (BytesMut::new(), Vec::new());
    let mut pieces = bytes.chunks(piece.max(1));
    loop {
        match decoder.step(&mut buffer)? {
            Step::Data(n) => content.extend_from_slice(&buffer.split_to(n)),
            Step::End(trailer) => {
                let mut rest = buffer.to_vec();
                rest.extend(pieces.flatten());
                return Ok(Some((content, trailer, rest)));
            }
            Step::More => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => return Ok(None),
            },
        }
    }
}

/// The same however it is cut; where a strict reader takes it, the same content; written again, the same.
pub fn chunked(bytes: &[u8]) {
    let whole = decode(bytes, usize::MAX);
    for piece in [1, 2, 3, 7, 64] {
        assert_eq!(whole, decode(bytes, piece), "in pieces of {piece}");
    }
    if let Some((content, used)) = strict_reader::chunks(bytes) {
        let Ok(Some((ours, _, rest))) = &whole else {
            panic!("{whole:?}, where a strict reader reads {content:?}")
        };
        assert_eq!((ours, rest.len()), (&content, bytes.len() - used));
    }
    if let Ok(Some((content, trailer, _))) = whole {
        let mut out = Vec::new();
        for piece in content.chunks(1000) {
            body::write_chunk(&mut out, piece);
        }
        body::write_last_chunk(&mut out, &trailer);
        let again = decode(&out, 5).expect("what we write is in order").expect("and whole");
        assert_eq!(again, (content, trailer, Vec::new()));
    }
}
