/** What the database holds before a function is called, and afterwards. */
import type { Backend } from "./backend.ts";

export const PHONE = "+351210000001";
export const CALL = "11111111-2222-4333-8444-555555555555";

export interface Row {
  readonly [column: string]: unknown;
}

export class Records {
  constructor(readonly project: Backend) {}

  async patient(named: { name?: string; phone?: string | null; consents?: boolean } = {}): Promise<string> {
    const { name = "Ana Albuquerque", phone = PHONE, consents = true } = named;
    const [row] = await this.project.sql`
      insert into public.patients (name, timezone, phone, voice_consent_at)
      values (${name}, 'Europe/Lisbon', ${phone}, ${consents ? "2026-01-01" : null}) returning id`;
    return row!.id;
  }

  async calls(): Promise<Row[]> {
    return [...await this.project.sql`select * from public.call_logs order by provider_call_id`];
  }

  async recordings(): Promise<Row[]> {
    return [
      ...await this.project.sql`
      select recordings.*, call_logs.provider_call_id
      from care.recordings join public.call_logs on call_logs.id = recordings.call_log_id
      order by call_logs.provider_call_id`,
    ];
  }

  async checks(): Promise<Row[]> {
    return [...await this.project.sql`select * from care.checks order by id`];
  }

  /** How many rows each table has. */
  async counts(): Promise<Record<string, number>> {
    const tables = await this.project.sql`select name from fixture.kept order by name`;
    const counts: Record<string, number> = {};
    for (const { name } of tables) {
      const [row] = await this.project.sql.unsafe(`select count(*)::int as count from ${name}`);
      counts[name] = row!.count;
    }
    return counts;
  }

  async stored(reference: unknown): Promise<Uint8Array> {
    const path = String(reference).replace(`storage:${this.project.bucket}/`, "");
    const { data, error } = await this.project.client.storage.from(this.project.bucket).download(path);
    if (error) throw error;
    return new Uint8Array(await data.arrayBuffer());
  }

  /** Receive a report, so that the call waits for its recording; returns the call's id. */
  async reported(named: Record<string, unknown> = {}): Promise<string> {
    const { data, error } = await this.project.client.rpc("receive_call_report", {
      provider: "vapi",
      provider_call_id: CALL,
      phone: PHONE,
      started_at: "2026-11-20T09:00:00Z",
      ended_at: "2026-11-20T09:05:00Z",
      ended_reason: "customer-ended-call",
      ...named,
    });
    if (error) throw error;
    return data.call_log_id;
  }
}

/** A WAV file of noise. */
export function wav(seconds = 0.5, channels = 1): Uint8Array {
  const length = Math.round(8000 * seconds) * channels * 2;
  const bytes = new Uint8Array(44 + length);
  const view = new DataView(bytes.buffer);
  const write = (at: number, text: string) => bytes.set(new TextEncoder().encode(text), at);
  write(0, "RIFF");
  view.setUint32(4, 36 + length, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, channels, true);
  view.setUint32(24, 8000, true);
  view.setUint32(28, 16000 * channels, true);
  view.setUint16(32, 2 * channels, true);
  view.setUint16(34, 16, true);
  write(36, "data");
  view.setUint32(40, length, true);
  for (let at = 44; at < bytes.length; at++) bytes[at] = (at * 31) % 251;
  return bytes;
}
