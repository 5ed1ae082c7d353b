/** One request to a provider, through the guard: followed nowhere, and honest about whether it may have arrived. */
import { type AllowedHosts, parseUrl } from "../_shared/addresses.ts";
import { type Answer, Limits, type Network, type Question } from "../_shared/exchange.ts";
import { FetchFailure } from "../_shared/fetches.ts";
import { ask } from "../_shared/guard.ts";
import type { Tools } from "./channel.ts";

const ANSWER_BYTES = 2_000_000;

/** No answer came: the address is `refused`, nobody was reached, or the connection ended before the answer. */
export class NoReply extends Error {
  constructor(readonly isRefused: boolean, readonly isArrived: boolean, why: string) {
    super(why);
    this.name = "NoReply";
  }
}

/** Ask any public host over https; one that is named as private also without. Raises a NoReply. */
export async function asked<T>(
  address: string,
  question: Question,
  tools: Tools,
  use: (answer: Answer) => Promise<T>,
): Promise<T> {
  const allowed: AllowedHosts = {
    fetchHosts: ["*"],
    fetchPrivateHosts: tools.settings.fetchPrivateHosts,
    fetchAllowHttp: false,
  };
  let isConnected = false;
  const watched: Network = {
    ...tools.network,
    connect: async (to, port) => {
      const connection = await tools.network.connect(to, port);
      isConnected = true;
      return connection;
    },
  };
  try {
    return await ask(parseUrl(address), question, allowed, new Limits(tools.seconds, ANSWER_BYTES), watched, use);
  } catch (error) {
    if (!(error instanceof FetchFailure)) throw error;
    const why = error.refusal ? `refused (${error.refusal})` : isConnected ? "no answer" : "no connection";
    throw new NoReply(error.refusal !== undefined, isConnected, why);
  }
}
