/**
 * What can be seen from outside: one JSON line a step, on standard error.
 *
 * A line carries `call_log_id`, counts, states and codes: never a person, a number, an address's query or a message.
 */
export type Level = "info" | "warning" | "error";
export type Fields = Record<string, string | number | boolean | null | undefined>;

export function log(level: Level, event: string, fields: Fields = {}): void {
  console.error(JSON.stringify({ at: new Date().toISOString(), level, event, ...fields }));
}
