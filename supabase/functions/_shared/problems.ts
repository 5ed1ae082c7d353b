/** Errors that a caller sees: application/problem+json (RFC 9457) with a stable `code`, as the service's. */
import { log } from "./events.ts";

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

  answer(): Response {
    const body = { type: "about:blank", title: TITLES[this.status], status: this.status, detail: this.message };
    return new Response(JSON.stringify({ ...body, code: this.code, ...(this.hint ? { hint: this.hint } : {}) }), {
      status: this.status,
      headers: { "content-type": "application/problem+json", ...this.headers },
    });
  }
}

const TITLES: Record<number, string> = {
  400: "Bad Request",
  401: "Unauthorized",
  405: "Method Not Allowed",
  408: "Request Timeout",
  413: "Content Too Large",
  500: "Internal Server Error",
  503: "Service Unavailable",
};

/** Give the work's answer, or the problem that it raised; what was not foreseen says nothing of itself to the caller. */
export async function answered(name: string, work: () => Promise<Response>): Promise<Response> {
  try {
    return await work();
  } catch (error) {
    const problem = error instanceof Problem
      ? error
      : new Problem(500, "internal_error", "The function failed; its log says why.");
    log(problem.status < 500 ? "warning" : "error", "refused", {
      function: name,
      status: problem.status,
      code: problem.code,
      // Ours name settings and rules, never what was sent.
      detail: error instanceof Problem ? problem.message : undefined,
      error: error instanceof Problem ? undefined : kind(error),
    });
    return problem.answer();
  }
}

/** The kind of an error and where it arose, but not its message, which may quote a value. */
export function kind(error: unknown): string {
  if (!(error instanceof Error)) return typeof error;
  const place = error.stack?.split("\n").find((line) => /^\s+at /.test(line))?.replace(/^\s+at /, "") ?? "";
  return `${error.name} ${place.replace(/\?[^)\s:]*/g, "")}`.trim();
}
