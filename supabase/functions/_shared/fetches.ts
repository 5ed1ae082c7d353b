/** How a fetch fails. */

export interface FetchDetails {
  /** Why we do not fetch it, in a word; absent where we tried. */
  readonly refusal?: string;
  /** What the host answered, where it did. */
  readonly status?: number;
  /** It was another host that answered so, to which the first one had sent us. */
  readonly isRedirected?: boolean;
}

/** `code` is stable; the message says what kind of thing was wrong, never an address, a query string or a body. */
export class FetchFailure extends Error {
  readonly refusal: string | undefined;
  readonly status: number | undefined;
  readonly isRedirected: boolean;

  constructor(
    readonly code: "recording_unreachable" | "recording_refused" | "recording_not_found" | "recording_too_large",
    message: string,
    details: FetchDetails = {},
  ) {
    super(message);
    this.name = "FetchFailure";
    this.refusal = details.refusal;
    this.status = details.status;
    this.isRedirected = details.isRedirected ?? false;
  }
}
