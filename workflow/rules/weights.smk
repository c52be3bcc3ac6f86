# ImageNet weights. The submit host fetches them, so that jobs need no internet.


def weights_of(network):
    """File of the initial weights of a network. Empty for random weights."""
    weights = CONFIG.models[network].weights
    if weights == "random":
        return []
    return [path("weights", f"{network}.h5") if weights == "imagenet" else weights]


def fetched_weights():
    """Files of weights that have to be fetched."""
    return remote_paths("weights") + [
        file for network in CONFIG.models for file in weights_of(network) if file == path("weights", f"{network}.h5")
    ]


rule fetch_weights:
    output:
        path("weights", "{network}.h5"),
    log:
        path("logs", "weights", "{network}.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    script:
        "../scripts/weights.py"
