/** The phone providers that are deployed. Another one is a folder beside vapi/, and an entry here. */
import type { Provider } from "./provider.ts";
import { vapi } from "./vapi/provider.ts";

export const PROVIDERS: readonly Provider[] = [vapi];
