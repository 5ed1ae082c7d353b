/** Caregivers who are to be notified, and what came of the messages to them. */
import assert from "node:assert/strict";
import type { Counts } from "../../supabase/functions/_shared/queue.ts";
import type { Delivery } from "../../supabase/functions/notify-caregiver/channel.ts";
import { handle } from "../../supabase/functions/notify-caregiver/index.ts";
import type { Backend } from "./backend.ts";
import { environment, run } from "./serving.ts";

export const PATIENT = "Ana Albuquerque";
export const CAREGIVER = "Bento Albuquerque";
export const PHONE = "+351910000001";

/** A delivery that is in no database. */
export const DELIVERY: Delivery = {
  delivery_id: 1,
  idempotency_key: "11111111-2222-4333-8444-555555555555",
  lease_token: "11111111-2222-4333-8444-666666666666",
  channel: "sms",
  address: PHONE,
  message: "URGENT: somebody is needed.",
  level: "emergency",
  change: "opened",
  alert_id: "11111111-2222-4333-8444-777777777777",
  call_log_id: "11111111-2222-4333-8444-999999999999",
  patient_id: "11111111-2222-4333-8444-888888888888",
  attempts: 1,
  may_have_been_sent: false,
  created_at: "2026-11-21T12:00:00Z",
};

export interface Row {
  readonly state: string;
  readonly attempts: number;
  readonly may_have_been_sent: boolean;
  readonly error_code: string | null;
  readonly error_message: string | null;
  readonly provider_message_id: string | null;
  readonly [column: string]: unknown;
}

export class Deliveries {
  constructor(readonly project: Backend) {}

  /** Raise an alert for a patient with one caregiver; returns the patient's id. */
  async raise(
    caregiver: { phone?: string; webhook_url?: string; name?: string; other_addresses?: Record<string, string> },
    level = "emergency",
    at = new Date(),
  ): Promise<string> {
    const { sql } = this.project;
    // The hosts that are played here speak no TLS.
    await sql`alter table public.patient_caregivers drop constraint if exists a_webhook_is_reached_over_https`;
    const [patient] = await sql`
      insert into public.patients (name, timezone) values (${PATIENT}, 'Europe/Lisbon') returning id`;
    const named = { patient_id: patient!.id, role: "primary", name: CAREGIVER, ...caregiver };
    await sql`insert into public.patient_caregivers ${sql(named)}`;
    await sql`select care.raise_alert(${patient!.id}, 'voice_changed', ${level}, ${at}, anomaly_score => 0.5)`;
    return patient!.id;
  }

  async rows(): Promise<Row[]> {
    return [...await this.project.sql<Row[]>`select * from care.deliveries order by id`];
  }

  /** The row of the only delivery. */
  async row(): Promise<Row> {
    const [row, ...more] = await this.rows();
    assert.ok(row && more.length === 0);
    return row;
  }

  /** Run the function. */
  async notify(
    settings: Record<string, string>,
    options: Record<string, unknown> = {},
    limits: Parameters<typeof handle>[2] = {},
  ): Promise<Counts> {
    const { delivered } = await run((request) => handle(request, environment(this.project, settings), limits), options);
    return delivered;
  }

  /** The moment from which a failed delivery is due again. */
  async dueAgain(): Promise<string> {
    const [row] = await this.project.sql`select max(run_at) + interval '1 second' as at from care.deliveries`;
    return new Date(row!.at).toISOString();
  }
}
