/**
 * The functions' log: one JSON line an event, on standard error.
 *
 * A line carries `call_log_id`, counts, states and codes; never a person, a phone number, a URL's query or a message's
 * text.
 */
export type Level = "info" | "warning" | "error";
export type Fields = Record<
  string,
  string | number | boolean | null | undefined
>;

export function log(level: Level, event: string, fields: Fields = {}): void {
  console.error(JSON.stringify({ at: new Date().toISOString(), level, event, ...fields }));
}
