package testcontrol

import (
	"net/netip"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"

	"tailnet/internal/fault"
)

type appCaps struct {
	Caps tailcfg.PeerCapMap `json:"caps"`
}

func (c *Control) setAppCaps(a appCaps) error {
	c.server.SetGlobalAppCaps(a.Caps)
	return nil
}

type policyEdit struct {
	which
	appCaps
}

// editPolicy sends the packet filter and nothing else, as control sends an edited policy.
func (c *Control) editPolicy(a policyEdit) error {
	everyone := tailcfg.FilterRule{SrcIPs: []string{"*"}, DstPorts: []tailcfg.NetPortRange{{IP: "*", Ports: tailcfg.PortRangeAny}}}
	granted := tailcfg.FilterRule{SrcIPs: []string{"*"}, CapGrant: []tailcfg.CapGrant{{
		Dsts: []netip.Prefix{tsaddr.AllIPv4(), tsaddr.AllIPv6()}, CapMap: a.Caps}}}
	filters := map[string][]tailcfg.FilterRule{"base": {everyone, granted}}
	return c.each(a.Node, func(n *tailcfg.Node) error {
		if !c.server.AddRawMapResponse(n.Key, &tailcfg.MapResponse{PacketFilters: filters}) {
			return fault.New(fault.Config, "edit_policy: node %s is not connected", n.Name)
		}
		return nil
	})
}
