/** Errors that a caller sees: application/problem+json (RFC 9457) with a stable `code`, as in the service. */
import { log } from "../log.ts";

export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
    readonly hint?: string,
    readonly headers: Record<string, string> = {},
  ) {
    super(detail);
    this.name = "Problem";
  }

  response(): Response {
    const body = { type: "about:blank", title: TITLES[this.status], status: this.status, detail: this.message };
    return new Response(
      JSON.stringify({ ...body, code: this.code, ...(this.hint ? { hint: this.hint } : {}) }),
      { status: this.status, headers: { "content-type": "application/problem+json", ...this.headers } },
    );
  }
}

const TITLES: Record<number, string> = {
  400: "Bad Request",
  401: "Unauthorized",
  404: "Not Found",
  405: "Method Not Allowed",
  408: "Request Timeout",
  413: "Content Too Large",
  500: "Internal Server Error",
  503: "Service Unavailable",
};

/**
 * Return the work's response, or the problem that it raised. An unexpected error tells the caller nothing about itself.
 */
export async function respond(name: string, work: () => Promise<Response>): Promise<Response> {
  try {
    return await work();
  } catch (error) {
    const problem = error instanceof Problem
      ? error
      : new Problem(500, "internal_error", "The function failed; its log says why.");
    log(problem.status < 500 ? "warning" : "error", "request_refused", {
      function: name,
      status: problem.status,
      code: problem.code,
      // Our own messages name settings and rules, never what was sent.
      detail: error instanceof Problem ? problem.message : undefined,
      error: error instanceof Problem ? undefined : errorKind(error),
    });
    return problem.response();
  }
}

/** The class of an error and where it was thrown; its message is left out, because it may quote a value. */
export function errorKind(error: unknown): string {
  if (!(error instanceof Error)) return typeof error;
  const place = error.stack?.split("\n").find((line) => /^\s+at /.test(line))?.replace(/^\s+at /, "") ?? "";
  return `${error.name} ${place.replace(/\?[^)\s:]*/g, "")}`.trim();
}
