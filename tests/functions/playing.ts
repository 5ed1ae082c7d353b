/** The day itself: everybody who takes part in it, five minutes after five minutes. */
import { handle as collectRecordings } from "../../supabase/functions/collect-recordings/index.ts";
import { handle as notifyCaregiver } from "../../supabase/functions/notify-caregiver/index.ts";
import { handle as callWebhook } from "../../supabase/functions/call-webhook/index.ts";
import type { Backend } from "./backend.ts";
import { Judge } from "./judge.ts";
import { generator, plan, type PlannedCall, type Size } from "./planning.ts";
import { report } from "./reports.ts";
import { Background, environment, type Json, serve, type Served } from "./serving.ts";
import { FakeTwilio } from "./twilio.ts";
import { FakeVapi } from "./vapi.ts";

const SECRET = "the-webhook-secret";
const STEP_MINUTES = 5;
const RECONCILE_MINUTES = 30;
const BEGIN_MINUTE = 7 * 60;
const END_MINUTE = 24 * 60;
const REFUSING = { from: 14 * 60, until: 15 * 60 };
/** The share of the alerts with a sent message that are acknowledged in each step. */
const ANSWERED_SHARE = 0.1;

export class Day implements AsyncDisposable {
  readonly calls: readonly PlannedCall[];
  readonly twilio = new FakeTwilio();
  readonly patients: string[] = [];
  refused = 0;
  readonly #vapi = new FakeVapi();
  readonly #background = new Background();
  readonly #functions: Served;
  readonly #environment: Map<string, string>;
  readonly #random: () => number;
  // The day that is played is to come: whatever really happens now is before it.
  readonly #midnight = Math.ceil(Date.now() / 86_400_000) * 86_400_000;
  #agentSeconds = 0;

  private constructor(
    readonly project: Backend,
    readonly size: Size,
    readonly judge: Judge,
    readonly say: (line: string) => void,
  ) {
    this.calls = plan(size);
    this.#random = generator(size.seed + 1);
    this.#environment = environment(project, {
      ...this.#vapi.settings,
      ...this.twilio.settings,
      VAPI_WEBHOOK_SECRET: SECRET,
      RETROCARE_FETCH_PRIVATE_HOSTS: [this.#vapi.settings, this.twilio.settings].map((one) =>
        one.RETROCARE_FETCH_PRIVATE_HOSTS
      ).join(),
    });
    this.#functions = serve((request) => {
      const name = new URL(request.url).pathname.slice(1);
      if (name.startsWith("call-webhook/")) return callWebhook(request, this.#environment, this.#background.waitUntil);
      return (name === "notify-caregiver" ? notifyCaregiver : collectRecordings)(request, this.#environment);
    });
  }

  static async prepare(project: Backend, size: Size, say: (line: string) => void): Promise<Day> {
    say(`preparing ${size.calls} calls of ${size.patients} patients`);
    await project.fresh();
    const day = new Day(project, size, await Judge.start(project, size.calls), say);
    day.#agentSeconds = await day.judge.agentSeconds();
    await day.#arrange();
    return day;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#background.settled();
    await this.judge.end();
    await this.#functions[Symbol.asyncDispose]();
    await this.#vapi[Symbol.asyncDispose]();
    await this.twilio[Symbol.asyncDispose]();
  }

  async play(): Promise<void> {
    for (let minute = BEGIN_MINUTE; minute <= END_MINUTE; minute += STEP_MINUTES) {
      const at = this.#at(minute);
      this.#gatewayBehaves(minute);
      await this.#providerWorks(minute);
      await this.#run("collect-recordings", { at, reconcile: minute % RECONCILE_MINUTES === 0 });
      await this.judge.at(at);
      await this.#run("notify-caregiver", { at });
      await this.#caregiversAnswer(at);
      await this.#timePasses(at);
      if (minute % 60 === 0) this.say(await this.#soFar(minute / 60));
    }
  }

  /** Patients with three caregivers each; and thresholds at which synthetic voices differ as people's do. */
  async #arrange(): Promise<void> {
    const { sql } = this.project;
    await sql`update care.thresholds set medium_above = 0.15, high_above = 0.2, critical_above = 0.9`;
    for (let n = 0; n < this.size.patients; n++) {
      const [patient] = await sql`
        insert into public.patients (name, timezone, phone, voice_consent_at)
        values (${`Patient ${n}`}, 'UTC', ${phone(n)}, '2026-01-01') returning id`;
      this.patients.push(patient!.id);
      for (const [index, role] of ["primary", "family", "clinician"].entries()) {
        await sql`
          with account as (insert into auth.users (email) values (${`${role}-${n}@example.org`}) returning id)
          insert into public.patient_caregivers (patient_id, user_id, role, name, phone, patient_known_as)
          select ${patient!.id}, account.id, ${role}::public.caregiver_role, ${`${role} of ${n}`},
            ${`+4917${String(10_000_000 + 3 * n + index)}`}, ${`Mum ${n}`}
          from account`;
      }
    }
  }

  /** For an hour nothing is taken; at other times, now and then, a message is taken and the answer is lost. */
  #gatewayBehaves(minute: number): void {
    const isRefusing = minute >= REFUSING.from && minute < REFUSING.until;
    this.twilio.unscripted = () => isRefusing ? { status: 503 } : this.#random() < 0.2 ? "take and close" : "take";
  }

  /** Calls end, recordings come to be, reports are sent: some twice, some late, some never. */
  async #providerWorks(minute: number): Promise<void> {
    const isNow = (moment: number) => moment > minute - STEP_MINUTES && moment <= minute;
    for (const call of this.calls) {
      if (isNow(call.minute + 5)) this.#vapi.add(call.id, {}, this.#listing(call));
      if (isNow(Math.max(call.recordedAt, call.minute + 5)) && call.voice !== "nobody") {
        this.#vapi.calls.get(call.id)!.recordings[call.kind] = await this.#recording(call);
      }
    }
    const due = this.calls.flatMap((call) => call.reports.filter(isNow).map(() => call));
    due.sort(() => this.#random() - 0.5);
    await Promise.all(due.map((call) => this.#report(call)));
    await this.#background.settled();
  }

  async #report(call: PlannedCall): Promise<void> {
    const artifact: Json = { messages: this.#messages(call) };
    if (call.voice !== "nobody" && ["once", "twice", "expired", "stereo"].includes(call.delivery)) {
      const address = this.#vapi.sign(await this.#recording(call));
      artifact[call.kind === "stereo" ? "presignedStereoUrl" : "presignedCustomerUrl"] = address;
      if (call.delivery === "expired") {
        this.#vapi.signatures.delete(new URL(address).searchParams.get("X-Amz-Signature")!);
      }
    }
    const body = JSON.stringify(report(artifact, {
      call: { id: call.id, type: "outboundPhoneCall", status: "ended" },
      customer: { number: phone(call.patient) },
      endedReason: call.endedReason,
      startedAt: this.#at(call.minute),
      endedAt: this.#at(call.minute + 5),
    }));
    const headers = { authorization: `Bearer ${SECRET}` };
    const answer = await fetch(`${this.#functions.url}/call-webhook/vapi`, { method: "POST", headers, body });
    if (!answer.ok) throw new Error(`call-webhook: ${answer.status} ${await answer.text()}`);
    await answer.body?.cancel();
  }

  #listing(call: PlannedCall): Json {
    return {
      createdAt: this.#at(call.minute),
      updatedAt: this.#at(call.minute + 5),
      startedAt: this.#at(call.minute),
      endedAt: this.#at(call.minute + 5),
      endedReason: call.endedReason,
      customer: { number: phone(call.patient) },
      artifact: { messages: this.#messages(call) },
    };
  }

  #messages(call: PlannedCall): Json[] {
    const agent = { role: "bot", message: "How are you?", secondsFromStart: 0, duration: 1000 * this.#agentSeconds };
    const patient = { role: "user", message: "Well.", secondsFromStart: this.#agentSeconds, duration: 12_000 };
    return call.kind === "stereo" ? [agent, patient] : [];
  }

  #recording(call: PlannedCall): Promise<Uint8Array> {
    return this.judge.recording(`${call.kind === "stereo" ? "stereo" : call.voice}-${call.number}`);
  }

  /** Some of the caregivers who got a message acknowledge the alert. */
  async #caregiversAnswer(at: string): Promise<void> {
    const open = await this.project.sql`
      select distinct on (caregiver_alerts.id) caregiver_alerts.id, patient_caregivers.user_id
      from public.caregiver_alerts
      join care.deliveries on deliveries.alert_id = caregiver_alerts.id and deliveries.state = 'accepted'
      join public.patient_caregivers on patient_caregivers.id = deliveries.caregiver_id
      where caregiver_alerts.state in ('open', 'escalated')
      order by caregiver_alerts.id, patient_caregivers.name`;
    for (const { id, user_id } of open) {
      if (this.#random() >= ANSWERED_SHARE) continue;
      await this.project.sql.begin(async (sql) => {
        const claims = JSON.stringify({ role: "authenticated", sub: user_id });
        await sql`select set_config('request.jwt.claims', ${claims}, true), set_config('request.jwt.claim.sub', ${user_id}, true)`;
        await sql`select care.acknowledge_alert(${id}, ${at})`;
      });
    }
  }

  async #timePasses(at: string): Promise<void> {
    const jobs = await this.project.sql`select job from care.due_jobs('infinity') as job`;
    for (const { job } of jobs) {
      const { data, error } = await this.project.client.rpc("run_job", { job, at });
      if (error || data === -1) throw new Error(`run_job ${job}: ${JSON.stringify(error ?? data)}`);
    }
  }

  async #run(name: string, body: Json): Promise<void> {
    const headers = { authorization: `Bearer ${this.#environment.get("RETROCARE_FUNCTIONS_KEY")}` };
    const url = `${this.#functions.url}/${name}`;
    const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
    const result = await answer.json();
    if (!answer.ok) throw new Error(`${name}: ${answer.status} ${JSON.stringify(result)}`);
    for (const count of Object.values(result.delivered?.failed ?? {})) this.refused += Number(count);
  }

  async #soFar(hour: number): Promise<string> {
    const [row] = await this.project.sql`
      select
        (select count(*)::int from public.call_logs) as calls,
        (select count(*)::int from care.checks where state in ('scored', 'enrolled')) as judged,
        (select count(*)::int from public.caregiver_alerts) as alerts,
        (select count(*)::int from care.deliveries where state = 'accepted') as sent,
        (select count(*)::int from care.deliveries where state = 'queued') as waiting`;
    const { calls, judged, alerts, sent, waiting } = row!;
    return `${String(hour).padStart(2, "0")}:00  ${calls} calls, ${judged} judged, ${alerts} alerts, ` +
      `${sent} messages sent, ${waiting} waiting`;
  }

  #at(minute: number): string {
    return new Date(this.#midnight + 60_000 * minute).toISOString();
  }
}

function phone(patient: number): string {
  return `+3512${String(10_000_000 + patient)}`;
}
