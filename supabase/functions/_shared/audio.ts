/** What a recording is, its bytes say; the Content-Type of whoever sent them is not looked at. */

export interface AudioKind {
  readonly extension: string;
  readonly contentType: string;
}

/** Tell by the first bytes what a file is; nothing where it is none of those that the service decodes. */
export function audioKind(bytes: Uint8Array): AudioKind | undefined {
  return KINDS.find((kind) => kind.isIt(bytes));
}

const KINDS: readonly (AudioKind & { isIt: (bytes: Uint8Array) => boolean })[] = [
  {
    extension: "wav",
    contentType: "audio/wav",
    isIt: (bytes) => ["RIFF", "RF64"].includes(text(bytes, 0, 4)) && text(bytes, 8, 12) === "WAVE",
  },
  { extension: "ogg", contentType: "audio/ogg", isIt: (bytes) => text(bytes, 0, 4) === "OggS" },
  { extension: "flac", contentType: "audio/flac", isIt: (bytes) => text(bytes, 0, 4) === "fLaC" },
  { extension: "m4a", contentType: "audio/mp4", isIt: (bytes) => text(bytes, 4, 8) === "ftyp" },
  { extension: "webm", contentType: "audio/webm", isIt: (bytes) => text(bytes, 0, 4) === "\x1a\x45\xdf\xa3" },
  { extension: "mp3", contentType: "audio/mpeg", isIt: (bytes) => text(bytes, 0, 3) === "ID3" || isMpegFrame(bytes) },
];

/** Eleven set bits, and a layer, a bit rate and a sample rate that exist. */
function isMpegFrame([first = 0, second = 0, third = 0]: Uint8Array): boolean {
  return first === 0xff && (second & 0xe0) === 0xe0 && (second & 0x18) !== 0x08 && (second & 0x06) !== 0 &&
    (third & 0xf0) !== 0xf0 && (third & 0xf0) !== 0 && (third & 0x0c) !== 0x0c;
}

function text(bytes: Uint8Array, from: number, to: number): string {
  return String.fromCharCode(...bytes.subarray(from, to));
}
