/** A guarded request to a message provider or a webhook; its failure says whether it may have arrived. */
import { type AllowedHosts, parseUrl } from "../_shared/http/addresses.ts";
import { FetchFailure } from "../_shared/http/fetch_failure.ts";
import { send } from "../_shared/http/guarded_fetch.ts";
import { FetchBudget, type Network, type PinnedRequest, type PinnedResponse } from "../_shared/http/pinned_client.ts";
import type { Tools } from "./channel.ts";

const RESPONSE_BYTES = 2_000_000;

/** There was no response: the URL is not allowed (`isRefused`), nobody was reached, or the connection ended early. */
export class NoResponse extends Error {
  /** `mayHaveArrived`: a connection was made, so that the request may have been read. */
  constructor(readonly isRefused: boolean, readonly mayHaveArrived: boolean, reason: string) {
    super(reason);
    this.name = "NoResponse";
  }
}

/** Send a request to any public host over https, or to one of RETROCARE_FETCH_PRIVATE_HOSTS. Raises a NoResponse. */
export async function requestProvider<T>(
  url: string,
  request: PinnedRequest,
  tools: Tools,
  use: (response: PinnedResponse) => Promise<T>,
): Promise<T> {
  const allowed: AllowedHosts = {
    fetchHosts: ["*"],
    fetchPrivateHosts: tools.settings.fetchPrivateHosts,
    fetchAllowHttp: false,
  };
  let isConnected = false;
  const network: Network = {
    ...tools.network,
    connect: async (address, port) => {
      const connection = await tools.network.connect(address, port);
      isConnected = true;
      return connection;
    },
  };
  try {
    return await send(parseUrl(url), request, allowed, new FetchBudget(tools.seconds, RESPONSE_BYTES), network, use);
  } catch (error) {
    if (!(error instanceof FetchFailure)) throw error;
    const reason = error.refusal ? `refused (${error.refusal})` : isConnected ? "no answer" : "no connection";
    throw new NoResponse(error.refusal !== undefined, isConnected, reason);
  }
}
