/** Waking the Python service. It polls anyway, so that a wake-up that fails costs seconds and nothing else. */
import { log } from "./log.ts";
import type { Settings } from "./settings.ts";

const WAKE_MILLISECONDS = 5_000;

/** Have the service look for work now, if PYTHON_SERVICE_URL is set. Never fails. */
export async function wakeService(settings: Settings): Promise<void> {
  if (!settings.serviceUrl) return;
  try {
    const response = await fetch(`${settings.serviceUrl}/wake`, {
      method: "POST",
      headers: settings.serviceKey ? { authorization: `Bearer ${settings.serviceKey}` } : {},
      redirect: "manual",
      signal: AbortSignal.timeout(WAKE_MILLISECONDS),
    });
    await response.body?.cancel();
    if (!response.ok) log("warning", "wake_up_refused", { status: response.status });
  } catch {
    log("warning", "wake_up_failed");
  }
}
