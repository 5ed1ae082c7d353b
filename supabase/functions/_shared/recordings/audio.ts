/** Recognising audio files by their bytes: the sender's Content-Type is not trusted. */

export interface AudioKind {
  readonly extension: string;
  readonly contentType: string;
}

/** The kind of audio file that begins with these bytes; undefined for everything that the service does not decode. */
export function audioKind(bytes: Uint8Array): AudioKind | undefined {
  return KINDS.find((kind) => kind.matches(bytes));
}

const KINDS: readonly (AudioKind & { matches: (bytes: Uint8Array) => boolean })[] = [
  {
    extension: "wav",
    contentType: "audio/wav",
    matches: (bytes) => ["RIFF", "RF64"].includes(text(bytes, 0, 4)) && text(bytes, 8, 12) === "WAVE",
  },
  { extension: "ogg", contentType: "audio/ogg", matches: (bytes) => text(bytes, 0, 4) === "OggS" },
  { extension: "flac", contentType: "audio/flac", matches: (bytes) => text(bytes, 0, 4) === "fLaC" },
  { extension: "m4a", contentType: "audio/mp4", matches: (bytes) => text(bytes, 4, 8) === "ftyp" },
  { extension: "webm", contentType: "audio/webm", matches: (bytes) => text(bytes, 0, 4) === "\x1a\x45\xdf\xa3" },
  {
    extension: "mp3",
    contentType: "audio/mpeg",
    matches: (bytes) => text(bytes, 0, 3) === "ID3" || isMpegFrame(bytes),
  },
];

/** Eleven set bits, then a valid layer, bit rate and sample rate. */
function isMpegFrame([first = 0, second = 0, third = 0]: Uint8Array): boolean {
  return first === 0xff && (second & 0xe0) === 0xe0 && (second & 0x18) !== 0x08 && (second & 0x06) !== 0 &&
    (third & 0xf0) !== 0xf0 && (third & 0xf0) !== 0 && (third & 0x0c) !== 0x0c;
}

function text(bytes: Uint8Array, from: number, to: number): string {
  return String.fromCharCode(...bytes.subarray(from, to));
}
