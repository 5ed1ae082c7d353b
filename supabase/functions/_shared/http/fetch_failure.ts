/** How a fetch fails: a stable code, and whether we refused, the host answered, or nobody did. */

export interface FetchFailureDetails {
  /** Why the address may not be fetched, in a word; absent where it was tried. */
  readonly refusal?: string;
  /** The host's HTTP status, where it answered. */
  readonly status?: number;
  /** The status came from a host to which the first one had redirected. */
  readonly isRedirected?: boolean;
}

/** `code` is stable; the message names the kind of failure, never an address, a query string or a body. */
export class FetchFailure extends Error {
  readonly refusal: string | undefined;
  readonly status: number | undefined;
  readonly isRedirected: boolean;

  constructor(
    readonly code:
      | "recording_unreachable"
      | "recording_refused"
      | "recording_not_found"
      | "recording_too_large",
    message: string,
    details: FetchFailureDetails = {},
  ) {
    super(message);
    this.name = "FetchFailure";
    this.refusal = details.refusal;
    this.status = details.status;
    this.isRedirected = details.isRedirected ?? false;
  }
}
