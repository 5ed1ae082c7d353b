/** What must have come of the simulated day, and what did. */
import { type PlannedCall } from "./planning.ts";
import type { Day } from "./playing.ts";

export interface Outcome {
  readonly counts: Record<string, number>;
  /** Everything that is not as it must be. */
  readonly problems: readonly string[];
}

export async function outcome(day: Day): Promise<Outcome> {
  const { sql } = day.project;
  const problems: string[] = [];
  const calls = await sql`
    select
      call_logs.provider_call_id as id, call_logs.check_state as state, call_logs.check_reason as reason,
      count(checks.id)::int as checks, bool_or(recordings.call_log_id is not null) as has_recording
    from public.call_logs
    left join care.checks on checks.call_log_id = call_logs.id
    left join care.recordings on recordings.call_log_id = call_logs.id
    group by call_logs.id`;
  const found = new Map(calls.map((call) => [call.id, call]));
  const wrong = (call: PlannedCall) => {
    const row = found.get(call.id);
    if (!row) return "lost";
    if (call.voice === "nobody") {
      return row.checks > 0 || row.has_recording || row.state !== "skipped" ? "judged" : null;
    }
    return row.checks === 1 && ["scored", "enrolled"].includes(row.state) ? null : `${row.state} ${row.reason}`;
  };
  for (const call of day.calls) {
    const why = wrong(call);
    if (why) problems.push(`call ${call.id} (${call.voice}, ${call.delivery}): ${why}`);
  }
  if (calls.length !== day.calls.length) problems.push(`${calls.length} calls instead of ${day.calls.length}`);

  const episodes = new Set(
    day.calls.filter((call) => call.voice === "changed").map((call) => day.patients[call.patient]!),
  );
  const alerts = await sql`
    select caregiver_alerts.id, caregiver_alerts.patient_id, caregiver_alerts.level, caregiver_alerts.state,
      (select count(distinct deliveries.caregiver_id)::int from care.deliveries
        join public.alert_changes on alert_changes.id = deliveries.change_id
        where deliveries.alert_id = caregiver_alerts.id and deliveries.state = 'accepted'
          and alert_changes.change in ('opened', 'raised', 'escalated', 'reminded')) as told
    from public.caregiver_alerts`;
  for (const patient of episodes) {
    const count = alerts.filter((alert) => alert.patient_id === patient).length;
    if (count !== 1) problems.push(`${count} alerts for the episode of ${patient}`);
  }
  for (const alert of alerts) {
    if (!episodes.has(alert.patient_id)) problems.push(`an alert without an episode: ${alert.patient_id}`);
    if (alert.level === "warning") problems.push(`a changed voice is only a warning: ${alert.patient_id}`);
    if (alert.told < 1) problems.push(`nobody was told of ${alert.id}`);
  }

  const deliveries = await sql`
    select deliveries.state, deliveries.may_have_been_sent, deliveries.provider_message_id as sid, patient_caregivers.phone
    from care.deliveries
    join public.patient_caregivers on patient_caregivers.id = deliveries.caregiver_id`;
  const accepted = deliveries.filter((delivery) => delivery.state === "accepted");
  const sids = new Set(accepted.map((delivery) => delivery.sid));
  const sent = day.twilio.messages;
  // What was answered while nobody knew whether it had been sent is cancelled, and may have been sent.
  const maySend = deliveries.filter((delivery) => delivery.state === "accepted" || delivery.may_have_been_sent);
  const count = (all: readonly { phone?: string; to?: string }[], to: string) =>
    all.filter((one) => (one.phone ?? one.to) === to).length;
  const twice = [...new Set(sent.map((message) => message.to))]
    .reduce((sum, to) => sum + Math.max(0, count(sent, to) - count(maySend as { phone?: string }[], to)), 0);
  for (const delivery of deliveries) {
    if (!["accepted", "cancelled"].includes(delivery.state)) problems.push(`a message is ${delivery.state} in the end`);
  }
  if (sids.size !== accepted.length) problems.push(`${accepted.length} deliveries share ${sids.size} messages`);
  if (twice > 0) problems.push(`the gateway took ${twice} messages twice`);
  for (const delivery of accepted) {
    if (!sent.some((message) => message.sid === delivery.sid)) problems.push(`${delivery.sid} was never taken`);
  }
  const [unsaid] = await sql`
    select count(*)::int as count
    from public.alert_changes
    join public.voice_anomaly_logs on voice_anomaly_logs.id = alert_changes.judgement_id
    where voice_anomaly_logs.alert_sent <> exists (
      select from care.deliveries
      join public.alert_changes as told on told.id = deliveries.change_id
      where deliveries.state = 'accepted' and told.judgement_id = alert_changes.judgement_id
    )`;
  if (unsaid!.count > 0) problems.push(`alert_sent is wrong in ${unsaid!.count} logs`);
  const issues = await sql`select kind, code from care.operator_issues()`;
  for (const { kind, code } of issues) problems.push(`left for the operator: ${kind} ${code}`);

  const planned = (is: (call: PlannedCall) => boolean) => day.calls.filter(is).length;
  return {
    problems,
    counts: {
      "calls": calls.length,
      "reported more than once": planned((call) => call.reports.length > 1),
      "never reported, found by reconciliation": planned((call) => call.reports.length === 0),
      "with an address that had expired": planned((call) => call.delivery === "expired" && call.voice !== "nobody"),
      "with a recording that came late": planned((call) =>
        call.delivery === "late recording" && call.voice !== "nobody"
      ),
      "in stereo": planned((call) => call.kind === "stereo"),
      "voicemails, busy lines and errors": planned((call) => call.voice === "nobody"),
      "lost": day.calls.filter((call) => !found.has(call.id)).length,
      "doubled": calls.length - found.size,
      "voicemails, busy lines and errors judged": planned((call) =>
        call.voice === "nobody" && wrong(call) === "judged"
      ),
      "judged": calls.filter((call) => call.checks === 1).length,
      "episodes": episodes.size,
      "alerts": alerts.length,
      "emergencies": alerts.filter((alert) => alert.level !== "warning").length,
      "emergencies that nobody was told of":
        alerts.filter((alert) => alert.level !== "warning" && alert.told < 1).length,
      "alerts answered": alerts.filter((alert) => alert.state === "acknowledged").length,
      "messages sent": sent.length,
      "refused or unanswered attempts": day.refused,
      "messages sent twice": twice,
    },
  };
}
