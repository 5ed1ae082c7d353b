/** The Python service's doorbell. It polls anyway: a bell that is not heard costs seconds, and nothing else. */
import { log } from "./events.ts";
import type { Settings } from "./settings.ts";

const WAKE_MILLISECONDS = 5_000;

/** Have the service look for work now, where PYTHON_SERVICE_URL says where it is. Never fails. */
export async function wakeService(settings: Settings): Promise<boolean> {
  if (!settings.serviceUrl) return false;
  try {
    const answer = await fetch(`${settings.serviceUrl}/wake`, {
      method: "POST",
      headers: settings.serviceKey ? { authorization: `Bearer ${settings.serviceKey}` } : {},
      redirect: "manual",
      signal: AbortSignal.timeout(WAKE_MILLISECONDS),
    });
    await answer.body?.cancel();
    if (!answer.ok) log("warning", "wake_refused", { status: answer.status });
    return answer.ok;
  } catch {
    log("warning", "wake_failed");
    return false;
  }
}
